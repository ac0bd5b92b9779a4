"""`fxgrow trace`: a model of timm becomes a file."""

import argparse
import ast
from typing import TYPE_CHECKING, Any

from fxgrow.cli.parser import add_output, add_verb
from fxgrow.errors import FxgrowError

if TYPE_CHECKING:
    from torch import nn

    from fxgrow.cli.parser import Verbs

_EXAMPLE = """
fxgrow trace timm:deit_small_patch16_224 --set num_classes=100 -o deit.pt
fxgrow trace timm:resnet50 --pretrained -o resnet.pt
"""
_WORDS = {"true": True, "false": False, "none": None}


def add_parser(verbs: "Verbs") -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "trace",
        run,
        summary="trace a model of timm and write it to a file",
        description="What was traced is run against the model, in train and eval mode, before it is written.",
        example=_EXAMPLE,
    )
    parser.add_argument("model", metavar="timm:NAME", help="a name of timm's registry")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of timm.create_model; may be given several times",
    )
    parser.add_argument("--pretrained", action="store_true", help="with timm's pretrained weights, which it downloads")
    parser.add_argument("--input-shape", metavar="CxHxW", help="shape of one image, where the model's own is not meant")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights (default: %(default)s)")
    add_output(parser, required=True)


def run(args: argparse.Namespace) -> None:
    """Build, trace and write the model."""
    source, _, name = args.model.partition(":")
    if source != "timm" or not name:
        raise FxgrowError("this is no model that fxgrow can build", where=args.model, fix="write timm:NAME")
    arguments = parse_settings(args.set)
    shape = None if args.input_shape is None else parse_shape(args.input_shape)
    import torch

    import fxgrow
    from fxgrow.cli.models import write_model
    from fxgrow.cli.output import output_console, show
    from fxgrow.files import check_output
    from fxgrow.files.origins import create_timm_model
    from fxgrow.inspection import summarize
    from fxgrow.record.record import Origin

    check_output(args.output, overwrite=args.force)
    torch.manual_seed(args.seed)
    model = create_timm_model(name, arguments, where=args.model, pretrained=args.pretrained)
    inputs = torch.randn(2, *(shape or image_shape(model, arguments)))
    traced = fxgrow.trace(model, inputs, origin=Origin("timm", name, arguments))
    console = output_console(args)
    console.print(f"traced {args.model}", markup=False)
    show(summarize(traced), args)
    write_model(traced, args, console)


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs; values are Python literals, or else strings.

    Example:
        >>> parse_settings(["num_classes=10", "global_pool=avg", "qkv_bias=false"])
        {'num_classes': 10, 'global_pool': 'avg', 'qkv_bias': False}

    Raises:
        FxgrowError: If one has no key or no value.
    """
    arguments: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key.isidentifier() or not equals:
            raise FxgrowError("it is no setting", where=f"--set {setting}", fix="write --set key=value")
        arguments[key] = _value(value)
    return arguments


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_shape(text: str) -> tuple[int, ...]:
    """Read a shape such as ``3x224x224``.

    Raises:
        FxgrowError: If it is none.
    """
    sizes = text.lower().replace(",", "x").replace("×", "x").split("x")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise FxgrowError("it is no shape", where=f"--input-shape {text}", fix="write it as 3x224x224")
    return tuple(int(size) for size in sizes)


def image_shape(model: "nn.Module", arguments: dict[str, Any]) -> tuple[int, ...]:
    """Return the shape of one image, from timm's default configuration and what the arguments change in it."""
    configuration: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    channels, *sizes = configuration.get("input_size", (3, 224, 224))
    size = arguments.get("img_size")
    if size is not None:
        sizes = list(size) if isinstance(size, tuple | list) else [size, size]
    return (arguments.get("in_chans", channels), *sizes)
