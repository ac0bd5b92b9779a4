"""Cosine cycles of the learning rate, as a plain PyTorch scheduler."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fxgrow.errors import PlanError
from fxgrow.optimizers import listed
from fxgrow.primitives.arguments import checks_arguments


class CosineCycles(LRScheduler):
    """Cycles of equal length, each a linear warm-up to a peak of its own, a time at it, and half a cosine down from it.

    With n steps in a cycle, w of them its warm-up, and the fall from step h on, the rate at step t of a cycle with peak
    p is, in units of a group's initial learning rate, p (t + 1) / w for t < w, p for t < h, and from there

        p (last + (1 - last) (1 + cos(pi (t - h) / (n - h))) / 2).

    One cycle without `hold` is the usual recipe of transformers, one with it is known as warm-up, stable, decay. For
    a residual MLP on MNIST-1D, grown or not, one cycle with ``hold=0.7`` was better than two cycles, the second from
    twice the first's peak, and these better than one without `hold` (`docs/half_steps.md`): a model that wakes or grows
    while the rate is high can use what is new.

    Args:
        optimizer: Its groups' learning rates are the unit of the peaks.
        steps: Steps in all cycles together; the scheduler is stepped once behind each step of the optimizer.
        peaks: The peak of each cycle.
        warm_up: Share of a cycle that is its warm-up; at least one step.
        hold: Share of a cycle, its warm-up included, before the rate begins to fall.
        last: What is left of a peak at the end of its cycle.
        last_epoch: The step to go on from, as in PyTorch's own schedulers.

    Raises:
        PlanError: If it is no optimizer, there are fewer steps than cycles, or a number is none or out of its range.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> scheduler = CosineCycles(optimizer, 1_000, peaks=(1, 2))
        >>> [round(scheduler.share(step), 2) for step in (0, 49, 499, 549, 1_000)]
        [0.02, 1.0, 0.01, 2.0, 0.02]
    """

    @checks_arguments(PlanError)
    def __init__(
        self,
        optimizer: Optimizer,
        steps: int,
        *,
        peaks: Sequence[float] = (1.0,),
        warm_up: float = 0.1,
        hold: float = 0.0,
        last: float = 0.01,
        last_epoch: int = -1,
    ) -> None:
        listed((optimizer,))
        self.peaks = tuple(float(peak) for peak in peaks)
        self.warm_up, self.hold, self.last = warm_up, hold, last
        if not self.peaks or min(self.peaks) <= 0 or not all(0 <= share <= 1 for share in (warm_up, hold, last)):
            what = f"peaks={peaks}, warm_up={warm_up}, hold={hold}, last={last}"
            fix = "give positive peaks, and shares between 0 and 1"
            raise PlanError("it makes no schedule", where=f"CosineCycles({what})", fix=fix)
        if steps < len(self.peaks):
            what = f"{steps} steps are too few for {len(self.peaks)} cycles"
            raise PlanError(what, where="CosineCycles", fix="train longer, or in fewer cycles")
        #: the step at which each cycle begins, and the end of the last one
        self.bounds = [round(steps * index / len(self.peaks)) for index in range(len(self.peaks) + 1)]
        super().__init__(optimizer, last_epoch)

    def share(self, step: int) -> float:
        """Return the learning rate of a step, in units of the group's initial one; behind the end, the last."""
        cycles = list(pairwise(self.bounds))
        index = next((place for place, (_, end) in enumerate(cycles) if step < end), len(cycles) - 1)
        first, end = cycles[index]
        time, length = step - first, end - first
        warm_up = max(1, round(self.warm_up * length))
        if time < warm_up:
            return self.peaks[index] * (time + 1) / warm_up
        falls = max(warm_up, round(self.hold * length))
        done = min(max(time - falls, 0) / max(1, length - falls), 1.0)
        return self.peaks[index] * (self.last + (1 - self.last) * (1 + math.cos(math.pi * done)) / 2)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group, those that came in later included."""
        share = self.share(self.last_epoch)
        return [group["initial_lr"] * share for group in self.optimizer.param_groups]
