"""What belongs to a growing model and is neither copied nor pickled with it: its optimizers, and the copies of it."""

import weakref
from typing import TypeVar

from torch import nn

from fxgrow.progressive.moments import Watch

M = TypeVar("M", bound=nn.Module)


class Companions:
    """What goes along with one model, without being held by it."""

    def __init__(self, model: nn.Module) -> None:
        self.watch = Watch(model.parameters())
        self.copies: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.versions = _versions(model)  #: how often each parameter had been written to when the model was made


_known: weakref.WeakKeyDictionary[nn.Module, Companions] = weakref.WeakKeyDictionary()


def companions_of(model: nn.Module) -> Companions:
    """Return what goes along with a model, from the first call on."""
    if model not in _known:
        _known[model] = Companions(model)
    return _known[model]


def averages_of(model: M) -> list[M]:
    """Return the copies that have been written to since they were made, and not by training: averages of weights.

    A copy that nobody has written to is a snapshot, and stays what it is.
    """
    return [
        copied  # type: ignore[misc]  # a copy is of the class of its original
        for copied in companions_of(model).copies
        if _versions(copied) != companions_of(copied).versions
        and all(parameter.grad is None for parameter in copied.parameters())
    ]


def _versions(model: nn.Module) -> list[int]:
    return [parameter._version for parameter in model.parameters()]
