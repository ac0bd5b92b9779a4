"""When to grow, and how one parameter budget is shared over the growth events."""

from collections.abc import Iterable

from fxgrow.errors import PlanError


def growth_epochs(epochs: int, events: int, *, first: float = 0.25, last: float = 0.6) -> tuple[int, ...]:
    """Return the epochs, counted from 0, before which a model grows: `events` of them, evenly spaced.

    Curvature means little before about a quarter of the training, and what grows late has no time to learn.

    Args:
        epochs: Length of the training.
        events: Number of growth events.
        first: Share of the training before the first event.
        last: Share of the training before the last event.

    Raises:
        PlanError: If the events do not fit: every event needs an epoch before it and one of its own after it.

    Example:
        >>> growth_epochs(40, 3)
        (10, 17, 24)
    """
    if events < 1 or not 0 <= first <= last <= 1:
        raise PlanError(
            f"{events} events between {first:.0%} and {last:.0%} of the training make no schedule",
            where="the growth schedule",
            fix="ask for one event or more, and for shares between 0 and 1 in order",
        )
    step = (last - first) / max(events - 1, 1)
    chosen = tuple(max(1, round(epochs * (first + index * step))) for index in range(events))
    if len(set(chosen)) < events or chosen[-1] >= epochs:
        raise PlanError(
            f"{events} growth events do not fit into {epochs} epochs",
            where="the growth schedule",
            fix="train longer, or grow less often",
        )
    return chosen


def check_epochs(at: Iterable[int]) -> tuple[int, ...]:
    """Return the epochs of a schedule, sorted.

    Raises:
        PlanError: If one is negative, no whole number, or given twice.
    """
    epochs = tuple(at)
    if any(isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0 for epoch in epochs):
        raise PlanError(f"{epochs} are not all epochs", where="at", fix="give whole numbers from 0 on")
    if len(set(epochs)) < len(epochs):
        raise PlanError(f"{epochs} has an epoch twice", where="at", fix="name each epoch once")
    return tuple(sorted(epochs))
