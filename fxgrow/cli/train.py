"""`fxgrow train`: a run that a recipe or options describe."""

import argparse
import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxgrow.cli.parser import add_verb
from fxgrow.errors import SettingsError

if TYPE_CHECKING:
    from fxgrow.cli.parser import Verbs
    from fxgrow.runs import Settings
    from fxgrow.runs.command import Outcome
    from fxgrow.runs.forecast import Forecast

_EXAMPLE = """
fxgrow train digits
fxgrow train recipe.toml --set optimizer.rate=3e-4 --out runs/slower
fxgrow train --data imagefolder:photos --model timm:deit_tiny_patch16_224 --budget 30% --epochs 50
fxgrow train digits --plan
fxgrow train digits --stages 1/4,1/2 --cycles 1,2 --out runs/waking
fxgrow train --resume runs/waking
"""
#: options that stand for settings, with what they are called in a recipe
_SETTINGS = {
    "data": ("data.source", "SOURCE", "what to train on: mnist5k, digits, mnist1d, imagefolder:PATH, cifar10:PATH, …"),
    "model": ("model.name", "NAME", "timm:NAME, or MODULE:CALLABLE for a model of your own"),
    "epochs": ("epochs", "N", "length of the training"),
    "batch_size": ("data.batch_size", "N", "images in a batch"),
    "rate": ("optimizer.rate", "RATE", "learning rate at the peak"),
    "seed": ("seed", "N", "seed of split, weights, batches and growth"),
    "device": ("device", "NAME", "as torch spells it"),
}

_BESIDE_RESUME = {"verb", "run", "parser", "debug", "quiet", "json", "resume", "threads"}


def add_parser(verbs: "Verbs") -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "train",
        run,
        summary="train a model that grows, as a recipe or options say",
        description="The folder of the run gets the recipe that repeats it, the metrics of each epoch, and the model "
        "at the end.",
        example=_EXAMPLE,
    )
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a TOML file, or a name that --list shows")
    parser.add_argument("--list", action="store_true", help="list the recipes that come with fxgrow")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting in place of the recipe's, as in growth.score=gain; none takes it out; as often as needed",
    )
    for name, (_, metavar, text) in _SETTINGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=text)
    parser.add_argument("--budget", metavar="SIZE", help="what growth may add: 0.5 or 50%% of the parameters, or 50000")
    parser.add_argument("--stages", metavar="SHARES", help="let blocks wake: the shares that run first, as in 1/4,1/2")
    parser.add_argument("--cycles", metavar="PEAKS", help="cosine cycles of the learning rate, by their peaks: 1,2")
    parser.add_argument("--no-compile", action="store_true", help="train eager, without torch.compile")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--force", action="store_true", help="overwrite the files in a folder that exists")
    parser.add_argument("--plan", action="store_true", help="say what the run will do and cost, and train nothing")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in a folder; Ctrl-C stops it")


def run(args: argparse.Namespace) -> int:
    """Train, go on with a run, or list the recipes."""
    from fxgrow.cli.output import tell

    if args.list:
        from fxgrow.runs.reading import recipe_names, recipe_summary

        recipes = {name: recipe_summary(name) for name in recipe_names()}
        tell("\n".join(f"{name}\n    {summary}" for name, summary in recipes.items()), recipes, args)
        return 0
    found = _carry_out(args)
    if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun the first one speaks
        tell(None, found, args)
    return getattr(found, "status", 0)


def _carry_out(args: argparse.Namespace) -> "Outcome | Forecast":
    """Train, go on, or plan; what people read is printed on the way."""
    from fxgrow.cli.output import output_console
    from fxgrow.runs.command import plan, resume, set_threads, train

    console = output_console(args)
    if args.resume:
        _check_alone(args)
        set_threads(args.threads)
        return resume(args.resume, console)
    settings = settings_of(args)
    set_threads(args.threads)
    if args.plan:
        return plan(settings, console)
    out = args.out or Path("runs") / (Path(args.recipe or "train").stem)
    return train(settings, out, console, force=args.force)


def _check_alone(args: argparse.Namespace) -> None:
    """Refuse changes of a run that goes on: it would not be the one that its recipe describes."""
    others = [name for name, value in vars(args).items() if value and name not in _BESIDE_RESUME]
    if others:
        fix = "leave it out, or train the changed recipe from the start"
        raise SettingsError("a run goes on as its recipe says", where=f"--{others[0].replace('_', '-')}", fix=fix)


def settings_of(args: argparse.Namespace) -> "Settings":
    """Return the settings that the arguments ask for.

    Raises:
        FxgrowError: If they do not fit.
    """
    from fxgrow.runs import override, read_recipe
    from fxgrow.runs.reading import settings_from

    if args.recipe is None and not (args.data and args.model):
        fix = "give a recipe (--list shows some), or --data and --model"
        raise SettingsError("nothing says what to train", where="fxgrow train", fix=fix)
    changes = changes_of(args)
    return read_recipe(args.recipe, changes) if args.recipe else settings_from(override({}, changes))


def changes_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings, by dotted names, that options stand for, and those of --set behind them."""
    from fxgrow.cli.grow import parse_budget
    from fxgrow.runs.reading import literal, parse_changes

    changes = {key: literal(getattr(args, name)) for name, (key, *_) in _SETTINGS.items() if getattr(args, name)}
    if args.budget:
        changes["growth.budget"] = parse_budget(args.budget)
    if args.stages is not None:
        # of the recipe's stages nothing stays, their times neither
        changes |= {"growth": None, "stages": None, "stages.depth": parse_shares(args.stages, "--stages")}
    if args.cycles is not None:
        changes["schedule.cycles"] = parse_shares(args.cycles, "--cycles")
    if args.no_compile:
        changes["compile"] = False
    return changes | parse_changes(args.set)


def parse_shares(text: str, option: str) -> list[float]:
    """Read numbers and fractions with commas between them.

    Example:
        >>> parse_shares("1/4,0.5,2", "--stages")
        [0.25, 0.5, 2.0]

    Raises:
        SettingsError: If one is no number.
    """
    try:
        return [float(Fraction(part.strip())) for part in text.split(",")]
    except (ValueError, ZeroDivisionError):
        fix = "write numbers with commas between them, as in 1/4,1/2"
        raise SettingsError("it is no list of numbers", where=f"{option} {text}", fix=fix) from None
