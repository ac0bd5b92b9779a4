"""Whether what growth has added learns: some optimizer steps, and which of its pieces have moved by then."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fxgrow.primitives.linear_map import LinearMap

#: the pieces of a parameter, by its name: ``(pieces, numbers)``
Pieces = Callable[[str], Tensor]


def whole(new: Mapping[str, nn.Parameter]) -> Pieces:
    """Take each parameter as one piece."""
    return lambda name: new[name].reshape(1, -1)


def rows(new: Mapping[str, nn.Parameter], model: nn.Module) -> Pieces:
    """Take what belongs to each output of a layer as a piece."""

    def rows_of(name: str) -> Tensor:
        if new[name].dim() < 2:
            return new[name].reshape(-1, 1)
        return LinearMap.of_module(model.get_submodule(name.rpartition(".")[0])).to_rows(new[name])

    return rows_of


def steps_until_moved(
    new: Mapping[str, nn.Parameter], pieces: Pieces, loss: Callable[[int], Tensor], limit: int
) -> tuple[int, list[str]]:
    """Train `new`, and nothing else, until each of its pieces has moved; two AdamW steps at least.

    Args:
        new: The parameters by name.
        pieces: How they are divided.
        loss: Returns the loss of a step, by the step's number.
        limit: How many steps at most.

    Returns:
        How many steps were taken, and which pieces have not moved.
    """
    # Without decay, which moves what has no gradient; and the scale of a gradient may be anything at random weights.
    optimizer = torch.optim.AdamW(new.values(), lr=1e-3, weight_decay=0.0, eps=1e-30)
    before = {name: pieces(name).detach().clone() for name in new}
    still = {name: torch.ones(len(value), dtype=torch.bool) for name, value in before.items()}
    steps = 0
    while steps < 2 or (steps < limit and any(bool(waiting.any()) for waiting in still.values())):
        optimizer.zero_grad()
        loss(steps).backward()
        optimizer.step()
        steps += 1
        for name, waiting in still.items():
            waiting &= (pieces(name).detach() == before[name]).all(1)
    waiting_rows = {name: waiting.nonzero().flatten().tolist() for name, waiting in still.items()}
    return steps, [f"{name}[{row}]" for name, numbers in waiting_rows.items() for row in numbers]
