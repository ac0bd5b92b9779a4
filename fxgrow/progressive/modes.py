"""Training and evaluation mode of what graphs hold beside a model's own modules: containers, and rates of dropout."""

from collections.abc import Iterable

import torch.fx as fx
from torch import nn


def follow_modes(model: nn.Module, graph_modules: Iterable[fx.GraphModule], *, training: bool) -> None:
    """Let the modules of graphs follow: those of the model keep their own mode, all others take `training`."""
    for graph_module in graph_modules:
        for path, module in graph_module.named_modules():
            own = submodule(model, path)
            module.training = training if own is None else own.training


def submodule(model: nn.Module, path: str) -> nn.Module | None:
    """Return the module at a path; None where the model has none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
