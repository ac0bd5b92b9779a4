"""`fxgrow inspect`: look at a model without running anything."""

import argparse
import json
from typing import TYPE_CHECKING

from fxgrow.cli.parser import add_unsafe_pickle, add_verb

if TYPE_CHECKING:
    from fxgrow.cli.parser import Verbs
    from fxgrow.files import Table

_EXAMPLE = """
fxgrow inspect model.pt
fxgrow inspect model.pt --node blocks.0.mlp.fc1
fxgrow inspect model.pt --parameters
fxgrow inspect model.pt --json | jq '.nodes[] | select(.site) | .target'
"""


def add_parser(verbs: "Verbs") -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "inspect",
        run,
        summary="show a model as a tree: sizes, scores, depth, and what grew",
        description="Only the table in the file is read: no model code is imported, nothing is executed.",
        example=_EXAMPLE,
    )
    parser.add_argument("model", metavar="FILE", help="a model that fxgrow wrote")
    parser.add_argument("--node", metavar="PATH", help="show one module, parameter or node of the graph in full")
    parser.add_argument("--parameters", action="store_true", help="list every parameter: can it grow, and why not")
    parser.add_argument("--all", action="store_true", help="show every block and every function")
    parser.add_argument("--json", action="store_true", help="print the whole table as JSON")
    add_unsafe_pickle(parser)


def run(args: argparse.Namespace) -> None:
    """Print the model."""
    from fxgrow.cli.models import output_console
    from fxgrow.inspection import render, render_node, render_parameters

    table = _table(args)
    if args.json:
        from fxgrow.files.plain import to_plain

        print(json.dumps({**to_plain(table), "flops": table.flops}, indent=1))
    elif args.node is not None:
        output_console().print(render_node(table, args.node))
    elif args.parameters:
        output_console().print(render_parameters(table))
    else:
        output_console().print(render(table, everything=args.all))


def _table(args: argparse.Namespace) -> "Table":
    from fxgrow.files import describe, load, read_table

    if args.unsafe_pickle:
        from fxgrow.files.diagnosis import PickledFileError

        try:
            return read_table(args.model)
        except PickledFileError:
            return describe(load(args.model, allow_pickle=True))
    return read_table(args.model)
