"""The command line: one module for each verb, thin over the API. Nothing here imports torch before a verb runs."""

import argparse
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any

from fxgrow.cli.parser import Parser
from fxgrow.errors import FxgrowError, did_you_mean, ran_out_of_memory

#: The verbs, in the order of the help. Each is a module here with `add_parser(verbs)`, which sets `run` and `parser`.
VERBS = ("trace", "score", "grow", "verify", "inspect", "export", "report", "run", "train", "demo", "doctor")

USER_ERROR, FAULT, INTERRUPTED = 2, 1, 130
_EPILOG = """\
example:
  fxgrow trace timm:vit_tiny_patch16_224 --set num_classes=10 -o model.pt
  fxgrow score model.pt --data imagefolder:photos -o scored.pt
  fxgrow grow scored.pt --budget 0.1 -o grown.pt
  fxgrow inspect grown.pt

`fxgrow VERB --help` shows the options of a verb. Exit status: 0, 1 if a check fails, 2 for a mistake in the command
or a file, 130 after Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        argv: The arguments; those of the process if left out.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    # A CUDA build of torch says there once that this machine has no GPU, which is no news to who works on the CPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.showwarning = _show_warning
            return _run(arguments)
    except SystemExit as leaving:  # argparse leaves so after --help and after an error
        return leaving.code if isinstance(leaving.code, int) else USER_ERROR
    except KeyboardInterrupt:
        return _report("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except FxgrowError as error:
        if debug:
            raise
        return _report(f"{error.kind}: {error}", USER_ERROR)
    except Exception as error:
        if debug:
            raise
        if ran_out_of_memory(error):
            return _report("the memory does not suffice; take a smaller model, smaller batches or images", USER_ERROR)
        kind = type(error).__name__
        return _report(
            f"a fault of fxgrow ({kind}: {error}); run it again with --debug and report what it shows", FAULT
        )


def _run(arguments: list[str]) -> int:
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions: eval "$(register-python-argcomplete fxgrow)"
        _complete(parser)
    verb = next((argument for argument in arguments if not argument.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        parser.error(f"there is no verb {verb!r}; {did_you_mean(verb, VERBS)}the verbs are {', '.join(VERBS)}")
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        options = args.parser.option_names()
        args.parser.error(f"it has no argument {unknown[0]!r}; {did_you_mean(unknown[0], options)}".rstrip("; "))
    with _silence() if args.quiet else nullcontext():
        status: Any = args.run(args)
        sys.stdout.flush()
    return int(status or 0)


@contextmanager
def _silence() -> Iterator[None]:
    """Print nothing; errors and warnings go to another stream."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _complete(parser: Parser) -> None:
    """Answer the shell, and leave."""
    import argcomplete

    argcomplete.autocomplete(parser)


def build_parser() -> Parser:
    """Return the parser of the whole command line."""
    from fxgrow import __version__

    parser = Parser(
        prog="fxgrow",
        description="Grow neural networks while they train: depth where the curvature of the loss asks for it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fxgrow {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True, parser_class=Parser)
    for verb in VERBS:
        importlib.import_module(f"fxgrow.cli.{verb}").add_parser(verbs)
    return parser


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _report(f"warning: {message}", 0)


def _report(message: str, status: int) -> int:
    """Print one line to the error stream, whatever the message holds."""
    print(f"fxgrow: {' '.join(message.split())}", file=sys.stderr)
    return status
