"""`fxgrow export`: a model in the format of another tool."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fxgrow.cli.parser import add_loading, add_verb

if TYPE_CHECKING:
    from fxgrow.cli.parser import Verbs

_EXAMPLE = """
fxgrow export grown.pt --to python grown
fxgrow export grown.pt --to onnx grown.onnx
fxgrow export grown.pt --to model-explorer viewer
"""
_FORMATS = {
    "python": "export_source",
    "onnx": "export_onnx",
    "pt2": "export_pt2",
    "safetensors": "export_safetensors",
    "model-explorer": "export_model_explorer",
}


def add_parser(verbs: "Verbs") -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "export",
        run,
        summary="write a model as PyTorch source, ONNX, pt2 or safetensors, or for Model Explorer",
        description="PyTorch source (python) is a folder with model.py and weights.safetensors, which load and train "
        "without fxgrow; it is run beside the model before it is written. ONNX and pt2 are of eval mode.",
        example=_EXAMPLE,
    )
    parser.add_argument("model", metavar="FILE", help="a model that fxgrow wrote")
    parser.add_argument("output", metavar="OUTPUT", help="the file, or for python and model-explorer the folder")
    parser.add_argument("--to", required=True, choices=list(_FORMATS), metavar="FORMAT", help=", ".join(_FORMATS))
    parser.add_argument("--force", action="store_true", help="replace what is there")
    add_loading(parser)


def run(args: argparse.Namespace) -> None:
    """Write the model."""
    import fxgrow.export
    from fxgrow.cli.models import load_model
    from fxgrow.cli.output import tell

    write: Callable[..., Any] = getattr(fxgrow.export, _FORMATS[args.to])
    write(load_model(args.model, args), args.output, overwrite=args.force)
    tell(f"wrote {args.output}", {"written": args.output, "format": args.to}, args)
