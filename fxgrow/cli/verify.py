"""`fxgrow verify`: whether two models compute the same function."""

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from fxgrow.cli.parser import add_loading, add_verb

if TYPE_CHECKING:
    from fxgrow.cli.parser import Verbs


def add_parser(verbs: "Verbs") -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "verify",
        run,
        summary="check that two models compute the same function",
        description="Outputs, gradients of the parameters that both have, and buffers are compared on random inputs, "
        "in train and eval mode and at two batch sizes. The exit status is 1 if they differ.",
        example="fxgrow verify model.pt grown.pt",
    )
    parser.add_argument("before", metavar="BEFORE", help="the model that is right")
    parser.add_argument("after", metavar="AFTER", help="the model that should equal it")
    parser.add_argument(
        "--tolerance", type=float, help="largest relative difference (default: 1e-5, in double precision 1e-10)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs (default: %(default)s)")
    add_loading(parser)


def run(args: argparse.Namespace) -> int:
    """Compare the models and say how far apart they are."""
    import fxgrow
    from fxgrow.cli.models import load_model
    from fxgrow.cli.output import tell
    from fxgrow.errors import VerificationError

    before, after = load_model(args.before, args), load_model(args.after, args)
    try:
        found = fxgrow.verify(before, after, tolerance=args.tolerance, seed=args.seed)
    except VerificationError as error:
        if args.debug:
            raise
        if args.json:
            tell(None, {"equal": False, "why": str(error)}, args)
        print(f"fxgrow: {error.kind}: {args.after} differs from {args.before}: {error}", file=sys.stderr)
        return 1
    sizes = " and ".join(map(str, found.batch_sizes))
    tell(
        f"equal: {found.outputs} outputs, {found.gradients} gradients and {found.buffers} buffers "
        f"({', '.join(found.modes)}; batches of {sizes})\n"
        f"largest relative difference {found.largest_relative:.1e}" + (f", in {found.worst}" if found.worst else ""),
        {"equal": True, **asdict(found)},
        args,
    )
    return 0
