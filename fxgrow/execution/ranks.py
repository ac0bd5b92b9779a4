"""The ranks of a run: processes that train one model, each on its own share of the data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from fxgrow.errors import RankError, first_line

#: a process group of torch; None for the default one, if there is one; False for this process alone
Group = dist.ProcessGroup | Literal[False] | None


class Ranks:
    """What is summed over samples is summed over the ranks too; alone, a process is its own sum.

    All ranks of the group call the same methods in the same order. What comes back is bit for bit the same on each of
    them, so that whatever is decided by it is decided alike. A rank that is gone or does not come is an error after the
    group's own timeout (``init_process_group(timeout=)``).

    Args:
        group: The process group.

    Example:
        >>> ranks = Ranks(False)
        >>> ranks.count, ranks.sum(torch.ones(2)), ranks.gather("all that is said")
        (1, tensor([1., 1.]), ['all that is said'])
    """

    def __init__(self, group: Group = None) -> None:
        if group is None:
            group = dist.group.WORLD if dist.is_available() and dist.is_initialized() else False
        self.group = None if group is False else group
        self.count = 1 if self.group is None else dist.get_world_size(self.group)
        self.index = 0 if self.group is None else dist.get_rank(self.group)
        if self.index < 0:
            fix = "call it on the ranks of the group only, or give another group"
            raise RankError("this process is not one of the group", where=f"rank {dist.get_rank()}", fix=fix)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the ranks."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def largest(self, tensor: Tensor) -> Tensor:
        """Return the largest over the ranks, number by number."""
        return self._reduced(tensor, dist.ReduceOp.MAX)

    def total(self, number: int) -> int:
        """Return the sum of a whole number over the ranks."""
        return int(self.sum(torch.tensor(number)))

    def mean(self, number: Tensor) -> float:
        """Return the mean over the ranks of one number."""
        return float(self.sum(number.detach().double().cpu().reshape(()))) / self.count

    def of_first(self, tensor: Tensor) -> Tensor:
        """Return what the first rank has."""
        return tensor if self.count == 1 else self.sum(tensor if self.index == 0 else torch.zeros_like(tensor))

    def gather(self, value: Any) -> list[Any]:
        """Return what each rank has, in their order: plain values, or tensors on the CPU."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        with self._answered():
            dist.all_gather_object(found, value, group=self.group)
        return found

    def numbered(self, sizes: Sequence[int]) -> tuple[int, dict[int, int]]:
        """Number the batches of all ranks, those of the first rank first.

        Args:
            sizes: How many samples each batch of this rank has.

        Returns:
            The number of this rank's first batch, and the samples of every batch by its number.
        """
        found = self.gather(list(sizes))
        return sum(map(len, found[: self.index])), dict(enumerate(chain(*found)))

    def agree(self, what: str, value: Any) -> None:
        """Check that all ranks have the same.

        Raises:
            RankError: If they do not.
        """
        found = self.gather(value)
        other = next((index for index, item in enumerate(found) if item != found[0]), None)
        if other is not None:
            raise RankError(
                f"{what} is {found[other]!r} on rank {other} and {found[0]!r} on rank 0",
                where=f"{self.count} ranks",
                fix="make model, options and seed the same on all of them; each reads its own share of the data",
            )

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        if self.count == 1:
            return tensor
        home = tensor.device
        on_gpu = dist.get_backend(self.group) == "nccl" and home.type == "cpu"
        moved = tensor.cuda() if on_gpu else tensor.clone(memory_format=torch.contiguous_format)
        with self._answered():
            dist.all_reduce(moved, operation, group=self.group)
        return moved.to(home)

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RankError(
                f"another rank is gone or did not come: {first_line(error)}",
                where=f"rank {self.index} of {self.count}",
                fix="read what the other ranks say; all of them have to take part, or give group=False for one alone",
            ) from error


#: this process by itself
ALONE = Ranks(False)
