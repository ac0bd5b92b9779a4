"""A class whose forward takes what a graph takes, by name."""

import inspect
from typing import Any, TypeVar

import torch.fx as fx
from torch import nn

M = TypeVar("M", bound=nn.Module)


def with_signature(kind: type[M], graph_module: fx.GraphModule) -> type[M]:
    """Return a class whose forward says which inputs it takes: trainers ask, as that of transformers does."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return kind.forward(self, *args, **kwargs)

    inputs = inspect.signature(graph_module.forward).parameters.values()
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    forward.__signature__ = inspect.Signature([own, *inputs])  # type: ignore[attr-defined]
    return type(kind.__name__, (kind,), {"forward": forward, "__doc__": kind.__doc__, "__module__": kind.__module__})
