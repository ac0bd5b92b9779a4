"""`fxgrow report`: a run as one page for the browser."""

import argparse
from typing import TYPE_CHECKING

from fxgrow.cli.parser import add_verb

if TYPE_CHECKING:
    from fxgrow.cli.parser import Verbs

_EXAMPLE = """
fxgrow report runs/digits -o report.html
fxgrow report runs/digits --compare runs/other -o report.html
fxgrow report grown.pt -o report.html
"""


def add_parser(verbs: "Verbs") -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "report",
        run,
        summary="write a run as one page for the browser: what grew, why, and what came of it",
        description="The page needs no network. No model code is imported, nothing is executed.",
        example=_EXAMPLE,
    )
    parser.add_argument("folder", metavar="RUN", help="the folder of a run, or a model file alone")
    parser.add_argument(
        "--compare", action="append", default=[], metavar="RUN", help="another run to stand beside it; may be repeated"
    )
    parser.add_argument("-o", "--output", metavar="FILE", default="report.html", help="the page (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="replace the page if it exists")


def run(args: argparse.Namespace) -> None:
    """Write the page."""
    from fxgrow.cli.output import tell
    from fxgrow.report import write_report
    from fxgrow.results import read_results

    others = [read_results(path) for path in args.compare]
    written = write_report(read_results(args.folder), args.output, compare=others, overwrite=args.force)
    size = written.stat().st_size
    tell(f"wrote {written}, {size / 1e6:.1f} MB", {"written": str(written), "bytes": size}, args)
