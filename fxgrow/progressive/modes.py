"""What graphs hold beside a model's own modules (containers, rates of dropout, buffers) follows the model."""

from collections.abc import Callable, Iterable

import torch.fx as fx
from torch import Tensor, nn

from fxgrow.primitives.modules import find_submodule


def follow_modes(model: nn.Module, graph_modules: Iterable[fx.GraphModule], *, training: bool) -> None:
    """Let the modules of graphs follow: those of the model keep their own mode, all others take `training`."""
    for graph_module in graph_modules:
        for path, module in graph_module.named_modules():
            own = find_submodule(model, path)
            module.training = training if own is None else own.training


def move_buffers(model: nn.Module, graph_modules: Iterable[fx.GraphModule], fn: Callable[[Tensor], Tensor]) -> None:
    """Let the buffers of graphs be those of the model, which was moved by `fn`; those of their own are moved too."""
    for graph_module in graph_modules:
        for path, module in graph_module.named_modules():
            owner = find_submodule(model, path)
            known = {} if owner is None else owner._buffers
            for name, buffer in module._buffers.items():
                module._buffers[name] = known[name] if name in known else None if buffer is None else fn(buffer)
