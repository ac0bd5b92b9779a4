"""Where the parameters of a rewritten graph come from: what an optimizer needs to go on with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

#: The moments of a parameter, from those of its sources and their order: 1 for what is linear in the gradient
#: (``exp_avg``, a momentum buffer), 2 for what is quadratic (``exp_avg_sq``), 0 for what does not scale with it.
Moments = Callable[[Sequence[Tensor], int], Tensor]


@dataclass(frozen=True)
class Lineage:
    """How one parameter descends from parameters of the graph before the rewrite.

    A *new* parameter joins the group of the first source that an optimizer holds, and `moments` says what it starts
    with. A parameter that *was there before*, under whatever name, keeps its state unless it is given a lineage from
    itself: then its moments start anew (``Lineage((name,))``) or change (``Lineage((name,), scaled(0.5))``).

    Args:
        sources: Names of its ancestors in the graph before, the one whose group it joins first.
        moments: How its moments follow from those of all its sources; None for a parameter that starts without any.
    """

    sources: tuple[str, ...]
    moments: Moments | None = None


def scaled(factor: float) -> Moments:
    """Return the moments of a parameter whose gradient is `factor` times that of its only source.

    Example:
        >>> import torch
        >>> scaled(0.5)([torch.tensor([4.0])], 2)
        tensor([1.])
    """

    def moments(sources: Sequence[Tensor], order: int) -> Tensor:
        (source,) = sources
        return source * factor**order

    return moments
