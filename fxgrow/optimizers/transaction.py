"""All or nothing for optimizers: what changes them puts them back when it fails."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.optim import LBFGS, Optimizer

from fxgrow.errors import PlanError

#: one optimizer, or all of those that share the parameters of a model, as Muon for matrices and AdamW for the rest
Optimizers = Optimizer | Sequence[Optimizer]


def listed(optimizer: Optimizers | None) -> tuple[Optimizer, ...]:
    """Return the optimizers that hold state and make steps, as a tuple; an empty one for None.

    Raises:
        PlanError: If one of them is no optimizer of torch.
    """
    return tuple(stepping(one) for one in as_given(optimizer))


def stepping(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer inside of one that only passes on to it, as timm's Lookahead and Accelerate's do."""
    inner = next((value for value in vars(optimizer).values() if isinstance(value, Optimizer)), None)
    return optimizer if inner is None else stepping(inner)


def as_given(optimizer: Optimizers | None) -> tuple[Optimizer, ...]:
    """Return the optimizers as a tuple, as they were given; an empty one for None.

    Raises:
        PlanError: If one of them is no optimizer of torch.
    """
    if optimizer is None:
        return ()
    optimizers = tuple(optimizer) if isinstance(optimizer, list | tuple) else (optimizer,)
    for one in optimizers:
        if not isinstance(one, Optimizer):
            fix = "give a torch.optim.Optimizer, or several in a tuple"
            raise PlanError("it is no optimizer", where=type(one).__name__, fix=fix)
    return optimizers


@contextmanager
def unchanged_on_failure(optimizer: Optimizers | None) -> Iterator[None]:
    """Put groups and state of optimizers back as they were if the block fails, whatever it raises.

    State is restored entry by entry: the tensors in it are taken to be replaced, and never written to, by the block.
    """
    snapshots = [_Snapshot(one) for one in listed(optimizer)]
    try:
        yield
    except BaseException:
        for snapshot in snapshots:
            snapshot.restore()
        raise


class _Snapshot:
    """The groups and the state of one optimizer."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.groups = [{key: _copied(value) for key, value in group.items()} for group in optimizer.param_groups]
        self.state = {parameter: dict(state) for parameter, state in optimizer.state.items()}

    def restore(self) -> None:
        for group, before in zip(self.optimizer.param_groups, self.groups, strict=True):
            for key in ("params", "param_names"):
                if key in group:  # the list itself stays: LBFGS holds it under another name
                    group[key][:] = before[key]
        self.optimizer.state.clear()
        self.optimizer.state.update(self.state)
        if isinstance(self.optimizer, LBFGS):
            self.optimizer._numel_cache = None


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value
