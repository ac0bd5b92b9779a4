"""How a model keeps the weights of its convolutions in memory."""

import torch
from torch import Tensor, nn

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def follow_memory_format(model: nn.Module, made: nn.Module) -> None:
    """Lay out the parameters of `made` that are not those of `model` as `model` keeps its own: channels last, or first.

    A convolution whose weight lies otherwise than its input costs a copy in every step.
    """
    known = set(model.parameters())
    formats = {weight.dim() for weight in known if _is_channels_last(weight)}
    for weight in made.parameters():
        if weight not in known and weight.dim() in formats:
            weight.data = weight.data.contiguous(memory_format=_CHANNELS_LAST[weight.dim()])


def _is_channels_last(weight: Tensor) -> bool:
    """Say whether a weight lies channels last, and not in both orders at once, as one of kernel size 1 does."""
    layout = _CHANNELS_LAST.get(weight.dim())
    return layout is not None and weight.is_contiguous(memory_format=layout) and not weight.is_contiguous()
