"""A learning rate of their own for parameters that have just been added, without a parameter group of their own.

A new group would break schedulers, which keep one base rate for each (pytorch issues 53712 and 79888). A step of any
optimizer is taken in full and then shortened: ``p <- p_before + share * (p_after - p_before)``, which is a step of
``share * lr`` wherever the step is proportional to the rate, decoupled weight decay included.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxgrow.errors import PlanError


class Young:
    """The new parameters of a model, and how long they have been trained.

    Args:
        factor: The learning rate of new parameters over that of their group, for good. 0 freezes them.
        warmup: Over how many steps it rises to that, linearly.

    Raises:
        PlanError: If one of them is negative.
    """

    def __init__(self, factor: float = 1.0, warmup: int = 0) -> None:
        if factor < 0 or warmup < 0:
            fix = "give new_lr_factor and new_warmup from 0 on"
            raise PlanError("it is negative", where=f"new_lr_factor={factor}, new_warmup={warmup}", fix=fix)
        self.factor, self.warmup = factor, warmup
        self._steps: dict[str, int] = {}  # steps made, by the parameter's name
        self._before: dict[str, Tensor] = {}

    @property
    def steps(self) -> Mapping[str, int]:
        """How many steps each parameter was trained that has not the rate of its group yet."""
        return self._steps

    def add(self, names: Iterable[str]) -> None:
        """Take note of parameters that were just added."""
        if self.factor != 1 or self.warmup:
            self._steps.update(dict.fromkeys(names, 0))

    def watch(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Shorten the steps that an optimizer makes for the young parameters of a model."""
        optimizer.register_step_pre_hook(partial(self._before_step, model))
        optimizer.register_step_post_hook(partial(self._after_step, model))

    def state_dict(self) -> dict[str, int]:
        """Return the steps made, by the parameter's name."""
        return dict(self._steps)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from what `state_dict` returned."""
        self._steps = dict(state)

    def _share(self, steps: int) -> float:
        return self.factor * min(1.0, (steps + 1) / self.warmup) if self.warmup else self.factor

    def _before_step(self, model: nn.Module, optimizer: Optimizer, *_: Any) -> None:
        if self._steps:
            held = _held(optimizer, model)
            self._before = {name: held[name].detach().clone() for name in self._steps if name in held}

    def _after_step(self, model: nn.Module, optimizer: Optimizer, *_: Any) -> None:
        if not self._before:
            return
        held = _held(optimizer, model)
        with torch.no_grad():
            for name, before in self._before.items():
                held[name].copy_(torch.lerp(before, held[name], self._share(self._steps[name])))
                self._steps[name] += 1
                if self.factor == 1 and self._steps[name] >= self.warmup:
                    del self._steps[name]
        self._before = {}


def _held(optimizer: Optimizer, model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a model that an optimizer steps."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in held}
