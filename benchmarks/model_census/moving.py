"""Whether what growth has added learns: some optimizer steps, and which of its tensors and rows have moved by then."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fxgrow.primitives.linear_map import LinearMap


class Movement:
    """New parameters in training, and nothing else, held against what they were at first.

    Args:
        model: The model that has them.
        names: Their names.
        loss: Returns the loss of a step, by the step's number.
    """

    def __init__(self, model: nn.Module, names: list[str], loss: Callable[[int], Tensor]) -> None:
        self.model, self.loss, self.steps = model, loss, 0
        self.new = {name: model.get_parameter(name) for name in names}
        self.before = {name: self._rows(name).clone() for name in names}
        self.still = {name: torch.ones(len(rows), dtype=torch.bool) for name, rows in self.before.items()}
        # Without decay, which moves what has no gradient; and at random weights a gradient may be of any scale.
        self.optimizer = torch.optim.AdamW(self.new.values(), lr=1e-3, weight_decay=0.0, eps=1e-30)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(map(len, self.before.values()))

    def tensors_that_stay(self) -> list[str]:
        """Return the parameters of which no row has moved."""
        return [name for name, still in self.still.items() if bool(still.all())]

    def rows_that_stay(self) -> list[str]:
        """Return the rows that have not moved, as in ``fc1.weight[3]``."""
        return [f"{name}[{row}]" for name, still in self.still.items() for row in still.nonzero().flatten().tolist()]

    def go_on(self, limit: int, staying: Callable[[], list[str]]) -> list[str]:
        """Take steps until nothing stays, two of them and at most `limit` since the start; return what stays."""
        while self.steps < min(2, limit) or (self.steps < limit and staying()):
            self.optimizer.zero_grad()
            self.loss(self.steps).backward()
            self.optimizer.step()
            self.steps += 1
            for name, still in self.still.items():
                still &= (self._rows(name) == self.before[name]).all(1)
        for parameter in self.model.parameters():
            parameter.grad = None
        return staying()

    def _rows(self, name: str) -> Tensor:
        """Return what belongs to each output of a layer, ``(rows, numbers)``."""
        value = self.new[name].detach()
        if value.dim() < 2:
            return value.reshape(-1, 1)
        return LinearMap.of_module(self.model.get_submodule(name.rpartition(".")[0])).to_rows(value)
