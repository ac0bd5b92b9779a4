"""`fxgrow grow`: grow a scored model."""

import argparse
import warnings
from typing import TYPE_CHECKING

from fxgrow.cli.parser import add_loading, add_output, add_verb
from fxgrow.errors import PlanError

if TYPE_CHECKING:
    import torch.fx as fx

    from fxgrow.cli.parser import Verbs

_EXAMPLE = """
fxgrow grow scored.pt --budget 0.1 -o grown.pt
fxgrow grow scored.pt --budget 50000 --include 'blocks.*.mlp.*' -o grown.pt
"""


def add_parser(verbs: "Verbs") -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "grow",
        run,
        summary="grow a scored model within a budget of parameters",
        description="The grown model computes the same function; `fxgrow verify` shows it. With half-steps it computes "
        "another one, and `fxgrow verify` says how far off.",
        example=_EXAMPLE,
    )
    parser.add_argument("model", metavar="FILE", help="a model that `fxgrow score -o` wrote")
    parser.add_argument(
        "--budget",
        required=True,
        metavar="SIZE",
        help="parameters to add at most: 0.1 or 10%% of the model's, or a whole number such as 50000",
    )
    parser.add_argument(
        "--operator",
        default="serial",
        metavar="NAME",
        help="kind of pseudo-layer, or half-step (default: %(default)s)",
    )
    parser.add_argument(
        "--allocation", default="even", metavar="NAME", help="how sites share the budget (default: %(default)s)"
    )
    for name, meaning in (("include", "grow only these sites"), ("exclude", "do not grow these sites")):
        text = f"{meaning}: a module path or a pattern; may be given several times"
        parser.add_argument(f"--{name}", action="append", default=[], metavar="PATTERN", help=text)
    parser.add_argument("--seed", type=int, default=0, help="seed of the new parameters (default: %(default)s)")
    add_loading(parser)
    add_output(parser, required=True)


def run(args: argparse.Namespace) -> None:
    """Grow the model by the scores in its file, show what grew, and write it."""
    budget = parse_budget(args.budget)
    import fxgrow
    from fxgrow.cli.models import load_model, write_model
    from fxgrow.cli.output import output_console, show
    from fxgrow.files import check_output
    from fxgrow.inspection import summarize
    from fxgrow.operators import find_operator

    check_output(args.output, overwrite=args.force)
    graph_module = load_model(args.model, args)
    _check_scored(graph_module, args.model)
    if find_operator(args.operator).follows_eigenvectors:
        what = f"{args.operator} starts from random directions: scores in a file have no eigenvectors to start from"
        warnings.warn(f"{what}; to follow them, grow in Python right after fxgrow.analyze", stacklevel=2)
    grown = fxgrow.grow(
        graph_module,
        fxgrow.Scores.from_annotations(graph_module),
        budget=budget,
        operator=args.operator,
        allocation=args.allocation,
        include=args.include,
        exclude=args.exclude,
        seed=args.seed,
    )
    console = output_console(args)
    show(summarize(grown), args)
    write_model(grown, args, console)


def parse_budget(text: str) -> int | float:
    """Read a budget: a whole number of parameters, or a share of the model's.

    Example:
        >>> parse_budget("50_000"), parse_budget("0.1"), parse_budget("10%")
        (50000, 0.1, 0.1)

    Raises:
        PlanError: If it is no number.
    """
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        return int(text) if text.replace("_", "").lstrip("+-").isdecimal() else float(text)
    except ValueError:
        fix = "write a share such as 0.1, or a whole number of parameters"
        raise PlanError("it is no number", where=f"--budget {text}", fix=fix) from None


def _check_scored(graph_module: "fx.GraphModule", where: str) -> None:
    from fxgrow.record.annotations import annotation
    from fxgrow.record.digest import digest

    found = [annotation(node)["scores"] for node in graph_module.graph.nodes if "scores" in annotation(node)]
    fix = f"run `fxgrow score {where} --data SOURCE -o scored.pt` first, and grow that"
    if not found:
        raise PlanError("it has no scores", where=where, fix=fix)
    if found[0]["digest"] != digest(graph_module):
        raise PlanError("its scores are of the graph before it grew", where=where, fix=fix)
