"""`fxgrow inspect`: look at a model without running anything."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxgrow.cli.parser import Parser, add_unsafe_pickle, add_verb
from fxgrow.errors import FxgrowError

if TYPE_CHECKING:
    from fxgrow.cli.parser import Verbs
    from fxgrow.files import Table
    from fxgrow.inspection import Selection

_EXAMPLE = """
fxgrow inspect model.pt
fxgrow inspect model.pt --view table --sort score --can-grow
fxgrow inspect model.pt --view graph --block blocks.0 -o block.svg
fxgrow inspect model.pt --node blocks.0.mlp.fc1
fxgrow inspect --diff before.pt after.pt
fxgrow inspect model.pt --json | jq '.data.sites[] | select(.depth > 0) | .path'
"""
_VIEWS = ("tree", "table", "graph", "json")
_FORMATS = ("text", "html", "json", "dot", "svg")


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
    parser.add_argument("model", metavar="FILE", nargs="?", help="a model that fxgrow wrote")
    _add_views(parser)
    _add_filters(parser)
    formats = f"one of {', '.join(_FORMATS)}; without it the name of the output says, or else it is text"
    parser.add_argument("--format", choices=_FORMATS, metavar="FORMAT", help=formats)
    parser.add_argument("-o", "--output", metavar="FILE", help="write there in place of the terminal")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    add_unsafe_pickle(parser)


def _add_views(parser: Parser) -> None:
    views = parser.add_argument_group("what to show")
    views.add_argument(
        "--view",
        choices=_VIEWS,
        metavar="VIEW",
        help="tree (the default), table (of the sites), graph (dot or SVG), or json (all of it)",
    )
    views.add_argument("--node", metavar="PATH", help="one module, parameter or node of the graph in full")
    views.add_argument("--parameters", action="store_true", help="every parameter: can it grow, and why not")
    views.add_argument("--history", action="store_true", help="each growth event: where, how much, on which evidence")
    views.add_argument("--diff", nargs=2, metavar=("BEFORE", "AFTER"), help="what grew from one file to another")
    views.add_argument("--all", action="store_true", help="in the tree, every block and every function")


def _add_filters(parser: Parser) -> None:
    filters = parser.add_argument_group("which part of the model")
    for name, meaning in (("block", "only what lies in this module"), ("site", "only this site, and what grew there")):
        text = f"{meaning}: a module path or a pattern; may be given several times"
        filters.add_argument(f"--{name}", action="append", default=[], metavar="PATTERN", help=text)
    filters.add_argument("--grown", action="store_true", help="only sites that grew")
    filters.add_argument("--can-grow", action="store_true", help="only sites that can grow")
    filters.add_argument("--sort", metavar="KEY", help="in the table: score, name, depth, neurons or parameters")


def run(args: argparse.Namespace) -> None:
    """Print or write a view of the model."""
    if (args.model is None) == (args.diff is None):
        args.parser.error("it needs a FILE, or --diff BEFORE AFTER")
    form = _format(args)
    view = _view(args)
    if form == "text" and not args.output:
        from fxgrow.cli.output import output_console
        from fxgrow.inspection import to_text

        output_console(args).print(to_text(view))
    elif not args.output:
        print(_writers()[form](view), end="" if form in ("dot", "svg", "html") else "\n")
    else:
        _write(_writers()[form](view), args)


def _format(args: argparse.Namespace) -> str:
    """Return the format that was asked for, by name or by the suffix of the output."""
    suffix = Path(args.output or "").suffix.removeprefix(".").replace("htm", "html").replace("htmll", "html")
    form = "json" if args.json else args.format or (suffix if suffix in _FORMATS else "")
    if args.view == "json":
        form = form or "json"
    if args.view == "graph":
        return form if form not in ("", "text") else "dot"
    if form in ("dot", "svg"):
        raise FxgrowError("only a graph is drawn so", where=f"--format {form}", fix="add --view graph")
    return str(form or "text")


def _view(args: argparse.Namespace) -> Any:
    from fxgrow import inspection

    if args.diff is not None:
        return inspection.view_diff(*(_table(path, args) for path in args.diff))
    table, selection = _table(args.model, args), _selection(args)
    if args.node is not None:
        return inspection.view_node(table, args.node)
    if args.parameters:
        return inspection.list_parameters(table)
    if args.history:
        return inspection.view_history(table)
    view = args.view or ("table" if args.sort else "json" if args.json else "tree")
    makers: dict[str, Callable[[], Any]] = {
        "tree": lambda: inspection.view_tree(table, selection, everything=args.all),
        "table": lambda: inspection.list_sites(table, selection, order=args.sort),
        "graph": lambda: inspection.view_graph(table, selection),
        "json": lambda: inspection.view_model(table, selection),
    }
    return makers[view]()


def _selection(args: argparse.Namespace) -> "Selection":
    from fxgrow.inspection import Selection

    return Selection(tuple(args.block), tuple(args.site), args.grown, args.can_grow)


def _writers() -> dict[str, Callable[[Any], str]]:
    from fxgrow.inspection import to_dot, to_html, to_json, to_plain_text, to_svg

    return {"text": to_plain_text, "html": to_html, "json": to_json, "dot": to_dot, "svg": to_svg}


def _write(text: str, args: argparse.Namespace) -> None:
    from fxgrow.cli.output import output_console
    from fxgrow.files.atomic import check_output, whole_or_nothing

    with whole_or_nothing(check_output(args.output, overwrite=args.force)) as stream:
        stream.write(text.encode())
    output_console(args).print(f"wrote {args.output}", markup=False)


def _table(path: str, args: argparse.Namespace) -> "Table":
    from fxgrow.files import read_table

    if not args.unsafe_pickle:
        return read_table(path)
    from fxgrow.files import describe, load
    from fxgrow.files.diagnosis import PickledFileError

    try:
        return read_table(path)
    except PickledFileError:
        return describe(load(path, allow_pickle=True))
