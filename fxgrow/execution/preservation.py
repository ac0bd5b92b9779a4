"""Running a model without leaving a trace on it: the one snapshot that all of fxgrow takes before it runs a model."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from fxgrow.execution.randomness import preserved_randomness
from fxgrow.execution.snapshot import Snapshot


@contextmanager
def preserved(*modules: nn.Module, seed: int | None = None, values: bool = True) -> Iterator[None]:
    """Restore all that running `modules`, or changing their mode, may move, also after an error or an interrupt.

    What that is stands at `fxgrow.execution.snapshot.Snapshot`; the global random state is part of it. The warnings
    of the models stay quiet: who runs them sees them.

    Args:
        modules: The models that will be run.
        seed: If given, the random state is seeded with it on entering.
        values: Whether the values of tensors are copied; unneeded where fake tensors take their places.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(preserved_randomness(seed))
        snapshot = Snapshot(modules, values=values)
        try:
            yield
        finally:
            snapshot.restore()
