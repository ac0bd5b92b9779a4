"""`fxgrow run`: send a model through a pipeline of passes."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxgrow.cli.parser import add_loading, add_output, add_verb
from fxgrow.errors import PassError, PipelineError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch.fx as fx
    from rich.console import Console

    from fxgrow.cli.parser import Verbs
    from fxgrow.passes import PassRun

_EXAMPLE = """
fxgrow run --list
fxgrow run model.pt -p eliminate-dead-code,functionalize-inplace -o clean.pt
fxgrow run model.pt -p 'insert-pseudo-layers{rows={"blocks.0.mlp.fc1":[0,3]}}' --verify full -o grown.pt
"""


def add_parser(verbs: "Verbs") -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "run",
        run,
        summary="send a model through a pipeline of passes",
        description="A pipeline is written name{option=value option=value},name with values as JSON or bare words. If "
        "a pass fails, the graph before it is kept beside the output, with the command that runs that pass alone.",
        example=_EXAMPLE,
    )
    parser.add_argument("model", metavar="FILE", nargs="?", help="a model file")
    parser.add_argument("-p", "--passes", metavar="PIPELINE", help="the passes, in order")
    parser.add_argument("--list", action="store_true", help="list the passes with their options and types")
    parser.add_argument("--print-after", action="store_true", help="print the graph after each pass that changed it")
    parser.add_argument("--time", action="store_true", help="print how long each pass took")
    parser.add_argument(
        "--verify",
        default="structure",
        metavar="CHECK",
        help="none, structure (the default: the invariants of the graph), or full: outputs and gradients too",
    )
    add_loading(parser)
    add_output(parser, required=False)


def run(args: argparse.Namespace) -> int:
    """List the passes, or run some and write what comes out; the status is 1 if the function changed."""
    from fxgrow.cli.output import output_console, tell

    console = output_console(args)
    if args.list:
        found = list(_passes())
        tell("\n".join(map(_pass_text, found)), found, args)
        return 0
    if args.model is None or args.passes is None:
        args.parser.error("it needs a model and -p PIPELINE, or --list")
    from fxgrow.cli.models import load_model, write_model
    from fxgrow.files import check_output
    from fxgrow.passes import parse

    pipeline = parse(args.passes)
    if args.output:
        check_output(args.output, overwrite=args.force)
    model, steps = load_model(args.model, args), list[dict[str, Any]]()
    try:
        result = pipeline(model, verify=args.verify, after_each=_reporter(args, console, steps))
    except PipelineError as error:
        path = args.model if error.before is model else _keep(error.before, args.output or args.model)
        fix = f"{error.fix}; to repeat: {error.reproducer(path)}"
        repeated = PassError(error.what, where=error.where, fix=fix)
        if isinstance(error.__cause__, VerificationError) and not args.debug:
            print(f"fxgrow: {error.__cause__.kind}: {repeated}", file=sys.stderr)
            return 1
        raise repeated from error
    if args.output:
        write_model(result.graph_module, args, console)
    tell(None, {"passes": steps, "written": args.output}, args)
    return 0


def _reporter(args: argparse.Namespace, console: "Console", steps: list[dict[str, Any]]) -> "Callable[[PassRun], None]":
    def report(step: "PassRun") -> None:
        steps.append({"pass": str(step.applied), "modified": step.result.modified, "seconds": step.seconds})
        seconds = f"{step.seconds:8.3f} s  " if args.time else ""
        outcome = "modified " if step.result.modified else "unchanged"
        console.print(f"{seconds}{outcome}  {step.applied}", markup=False, soft_wrap=True)
        if args.print_after and step.result.modified:
            console.print(f"{step.result.graph_module.graph}\n", markup=False, soft_wrap=True)

    return report


def _keep(graph_module: "fx.GraphModule", beside: str) -> str:
    """Save the graph before a failing pass under a new name, and return that name."""
    from fxgrow.files import save

    stem, number = Path(beside).with_suffix(""), 0
    while (path := Path(f"{stem}.before{number or ''}.pt")).exists():
        number += 1
    save(graph_module, path)
    return str(path)


def _passes() -> "Iterator[dict[str, Any]]":
    """Yield what is known of each pass; of one that cannot be used, why."""
    from fxgrow.passes import available_passes, describe_pass
    from fxgrow.passes.options import spell_value

    for name in available_passes():
        try:
            description = describe_pass(name)
        except PassError as error:  # a broken plugin must not hide the others
            yield {"name": name, "summary": f"cannot be used: {error}", "options": []}
            continue
        options = [
            {"name": o.name, "type": o.type_name, "default": None if o.required else spell_value(o.default)}
            for o in description.options
        ]
        yield {"name": name, "summary": description.summary, "options": options}


def _pass_text(found: dict[str, Any]) -> str:
    lines = [found["name"], f"    {found['summary']}"]
    for option in found["options"]:
        default = "required" if option["default"] is None else f"default {option['default']}"
        lines.append(f"    {option['name']}: {option['type']} ({default})")
    return "\n".join(lines)
