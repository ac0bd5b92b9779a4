"""Where the parameters of a rewritten graph come from: what an optimizer needs to go on with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

#: The moments of a new parameter, from those of its sources and their order: 1 for what is linear in the gradient
#: (``exp_avg``, a momentum buffer), 2 for what is quadratic (``exp_avg_sq``).
Moments = Callable[[Sequence[Tensor], int], Tensor]


@dataclass(frozen=True)
class Lineage:
    """How one new parameter descends from parameters of the graph before the rewrite.

    Args:
        sources: Names of its ancestors. It joins the optimizer's group of the first, and takes that one's place where
            the first is there no more.
        moments: How its moments follow from theirs; None for a parameter that starts without any.
    """

    sources: tuple[str, ...]
    moments: Moments | None = None
