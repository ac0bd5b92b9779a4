"""Training and evaluation mode of what graphs hold beside a model's own modules: containers, and rates of dropout."""

from collections.abc import Iterable

import torch.fx as fx
from torch import nn

from fxgrow.primitives.modules import find_submodule


def follow_modes(model: nn.Module, graph_modules: Iterable[fx.GraphModule], *, training: bool) -> None:
    """Let the modules of graphs follow: those of the model keep their own mode, all others take `training`."""
    for graph_module in graph_modules:
        for path, module in graph_module.named_modules():
            own = find_submodule(model, path)
            module.training = training if own is None else own.training
