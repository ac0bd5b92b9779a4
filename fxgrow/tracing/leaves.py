"""Which modules stay whole: one node that calls the module, with nothing traced inside it."""

import sys
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

#: modules of torch.nn that are made of others; torch.fx keeps them whole, and growth shall reach inside them
COMPOSITES = (
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
)
_ATOMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.AvgPool2d, nn.MaxPool2d)


def is_closed(module: nn.Module) -> bool:
    """Say whether `module` is a leaf by its nature: there is nothing in it to trace, or nothing that could grow."""
    return isinstance(module, torch.jit.ScriptModule) or follows_mode(module)


def follows_mode(module: nn.Module) -> bool:
    """Say whether `module` does something else in training and holds no parameters, as dropout and DropPath.

    Traced through, it would be fixed in the mode it was traced in; as a leaf it goes on following ``.train()``, and
    nothing that could grow is lost.
    """
    kind: Any = type(module)
    return _reads_training(kind) and next(module.parameters(), None) is None


def untraceable_classes() -> tuple[type[nn.Module], ...]:
    """Return the norms and pools that timm registers as not traceable; none if timm is not loaded.

    The registry fills while timm's model files are imported, so it is read at each trace. Convolutions and whole blocks
    are registered too, for control flow on sizes, which is no obstacle here: growth shall reach inside them.
    """
    registered: Any = getattr(sys.modules.get("timm.models"), "get_notrace_modules", tuple)()
    return tuple(kind for kind in registered if issubclass(kind, _ATOMS))


@cache
def _reads_training(kind: Any) -> bool:
    classes = kind.__mro__[: kind.__mro__.index(nn.Module)]
    return any("training" in names for item in classes for names in _names_in_methods(item))


def _names_in_methods(kind: type) -> Iterator[tuple[str, ...]]:
    for value in vars(kind).values():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if isinstance(function, FunctionType):
            yield from _names_in_code(function.__code__)


def _names_in_code(code: CodeType) -> Iterator[tuple[str, ...]]:
    yield code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in_code(constant)
