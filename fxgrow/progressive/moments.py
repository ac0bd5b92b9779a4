"""The optimizers of a growing model, found as they step: what wakes starts with fresh moments."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from fxgrow.progressive.narrowing import IdleSlice


class Watch:
    """Knows the optimizers that step the parameters of one model, without holding them.

    torch's optimizers begin anew, at step 0, with a parameter that has no state.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = {id(parameter): parameter for parameter in parameters}
        self._known: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._pending: list[nn.Parameter] = []
        self.idle: tuple[IdleSlice, ...] = ()  #: pieces of tensors that no step may change, weight decay included
        self._values: list[Tensor] = []
        _watches.add(self)

    def restart(self, parameters: Iterable[nn.Parameter], optimizers: Iterable[Optimizer] = ()) -> None:
        """Drop the state of parameters from the optimizers that step them, or will be the first to do so.

        Their gradients go too: they are those of other values.
        """
        restarted = list(parameters)
        for parameter in restarted:
            parameter.grad = None
        self._known.update(optimizers)
        for optimizer in self._known:
            _forget(optimizer, restarted)
        if not self._known:
            self._pending += restarted

    def before_step(self, optimizer: Optimizer) -> None:
        """Get to know an optimizer, and keep what is idle."""
        if optimizer not in self._known and self._holds(optimizer):
            _forget(optimizer, self._pending)
            self._pending.clear()
            self._known.add(optimizer)
        if optimizer in self._known:
            self._values = [piece.view.clone() for piece in self.idle]

    def after_step(self, optimizer: Optimizer) -> None:
        """Put back what is idle: an optimizer decays a whole tensor."""
        if optimizer in self._known:
            for piece, value in zip(self.idle, self._values, strict=True):
                piece.view.copy_(value)
            self._values = []

    def _holds(self, optimizer: Optimizer) -> bool:
        return any(id(parameter) in self._parameters for g in optimizer.param_groups for parameter in g["params"])


_watches: weakref.WeakSet[Watch] = weakref.WeakSet()


def _forget(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        if isinstance(optimizer, LBFGS):  # whose history is one of all parameters
            optimizer.state.clear()
        optimizer.state.pop(parameter, None)


def _before_any_step(optimizer: Optimizer, *_: Any) -> None:
    for watch in list(_watches):
        watch.before_step(optimizer)


def _after_any_step(optimizer: Optimizer, *_: Any) -> None:
    for watch in list(_watches):
        watch.after_step(optimizer)


register_optimizer_step_pre_hook(_before_any_step)
register_optimizer_step_post_hook(_after_any_step)
