"""Probe data: the batches on which scores are measured, read once and kept, with the number of samples in each."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.curvature.batches import Batch, as_inputs, tensors_in, to_device
from fxgrow.curvature.sample_dimension import run_in_eval, samples_lie_along
from fxgrow.errors import AnalysisError, FxgrowWarning, first_line
from fxgrow.execution.inputs import device_of
from fxgrow.execution.place import Place
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.execution.ranks import ALONE, Ranks

#: with fewer the least eigenvalue is mostly noise: with 64 images, 29 % of it was really there (docs/curvature.md)
ENOUGH_SAMPLES = 256

#: says how many samples a batch holds, given the batch as the iterable yielded it
CountSamples = Callable[[Any], int]
#: what `batches` are
PAIRS_IN_WORDS = "pairs (inputs, target), or inputs alone where loss_fn is None"


class FewSamplesWarning(FxgrowWarning):
    """Scores were measured on so few samples that their eigenvalues are dominated by noise."""


def read_batches(
    graph_module: fx.GraphModule,
    batches: Iterable[Any],
    *,
    seed: int,
    max_samples: int | None = None,
    samples: CountSamples | None = None,
    targets: bool = True,
    place: Place | None = None,
    ranks: Ranks = ALONE,
) -> tuple[tuple[Batch, ...], Mapping[int, int]]:
    """Read batches from any iterable, until there are `max_samples`, and move them to the model's device.

    They are kept, because the analysis goes over them more than once. A loader that shuffles is seeded, and the global
    random state is left alone.

    Args:
        graph_module: The model that will be run on them.
        batches: Pairs ``(inputs, target)``; inputs are a tensor, a tuple of inputs or a dict by keyword. What was read
            before is taken as it is.
        seed: Seed of the random state while they are read.
        max_samples: Stop when there are this many samples, on all ranks together; None reads all.
        samples: Says how many samples a batch holds; found by `SampleCounter` if None.
        targets: Whether the batches are pairs; else they are inputs alone, of a model that computes its own loss.
        place: Where the graph lies in a larger model, which the batches are for.
        ranks: The ranks, each of which reads batches of its own.

    Returns:
        The batches of this rank, and the samples of those of all ranks by `Batch.index`.

    Raises:
        AnalysisError: If there is no batch, one is not a pair with a tensor among its inputs, or nothing says how many
            samples batches of different sizes have.
    """
    device, counter, found = device_of(graph_module), SampleCounter(graph_module, samples, place), list[Batch]()
    with preserved_randomness(seed):
        for index, item in enumerate(_checked(batches)):
            if isinstance(item, Batch):
                found.append(item)
                continue
            inputs, target = pair_of(index, item) if targets else (item, None)
            inputs, target = as_inputs(index, inputs, device), to_device(target, device)
            found = counter.add(found, Batch(index, inputs, target, 0), item)
            if max_samples is not None and ranks.count * sum(batch.samples for batch in found) >= max_samples:
                break
    if not found:
        fix = "give pairs (inputs, target); an iterator that was already used up is empty too"
        raise AnalysisError("there is no batch in it", where="batches", fix=fix)
    first, sizes = ranks.numbered([batch.samples for batch in found])
    check_samples(sum(sizes.values()))
    return tuple(replace(batch, index=index) for index, batch in enumerate(found, first)), sizes


def _checked(batches: Any) -> Iterable[Any]:
    if isinstance(batches, Tensor | str | Mapping) or not (
        hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    ):
        what = f"it is a {type(batches).__name__}, not an iterable of batches"
        raise AnalysisError(what, where="batches", fix="give a list or a loader of pairs (inputs, target)")
    found: Iterable[Any] = batches
    return found


def pair_of(index: int, item: Any) -> tuple[Any, Any]:
    """Return inputs and target of one item that `batches` yielded.

    Raises:
        AnalysisError: If it is no pair.
    """
    if not isinstance(item, tuple | list) or len(item) != 2:
        fix = "let batches yield such pairs, or give loss_fn=None for a model that computes its loss itself"
        raise AnalysisError("it is not a pair (inputs, target)", where=f"batch {index}", fix=fix)
    return item[0], item[1]


def check_samples(samples: int) -> None:
    """Warn where there are too few samples to trust scores.

    Raises:
        AnalysisError: If there is a single one.
    """
    if samples < 2:
        fix = "give at least two; if it holds several, say how many with samples="
        raise AnalysisError("one sample cannot be split into halves", where="batches", fix=fix)
    if samples < ENOUGH_SAMPLES:
        message = f"scores from fewer than {ENOUGH_SAMPLES} samples ({samples}) are mostly noise: trust `held_out` only"
        warnings.warn(message, FewSamplesWarning, stacklevel=5)


@dataclass(frozen=True)
class _Rule:
    """Where the number of samples of a batch is read: a dimension of an input, the target, or what the user says."""

    dim: int | None  #: the dimension of the first input along which the samples lie; None where none does
    by_target: bool  #: whether the target's leading dimension is the number of samples, or at least agrees with it
    known: bool = True  #: else each batch counts as one sample


class SampleCounter:
    """Counts the samples of batches of one kind.

    What is certain is taken, in this order: what the user's function says; the leading dimension that target and first
    input share; the target's, where an input, the output, or the first input's second dimension (time first) shares it;
    and without a target that tells, the dimension of the inputs along which the model keeps samples apart, found by
    running it on two of them. Where nothing tells, batches that are all alike count as one sample each.

    Args:
        graph_module: The model.
        given: The user's function.
        place: Where it lies in a larger model, which the batches are for.
    """

    def __init__(self, graph_module: fx.GraphModule, given: CountSamples | None, place: Place | None = None) -> None:
        self.graph_module, self.given, self.place = graph_module, given, place
        self.rule: _Rule | None = None

    def add(self, batches: Sequence[Batch], batch: Batch, item: Any) -> list[Batch]:
        """Return the batches with one more, all counted; `item` is what the iterable yielded for it."""
        stated = self._stated(batch, item)
        if self.rule is None or not self._fits(batch, stated):
            self.rule = self._decide(batch, stated)
            batches = [self._counted(earlier, earlier.samples if self.given else None) for earlier in batches]
        counted = self._counted(batch, stated)
        if not self.rule.known and any(_shapes(counted) != _shapes(other) for other in batches):
            what = "it is unlike the first one, and nothing says how many samples it has"
            fix = "say it: samples=, a function of the batch, as in samples=lambda batch: len(batch[1])"
            raise AnalysisError(what, where=f"batch {batch.index}", fix=fix)
        return [*batches, counted]

    def _stated(self, batch: Batch, item: Any) -> int | None:
        """Return what the user's function says of a batch."""
        if self.given is None:
            return None
        where = f"samples= at batch {batch.index}"
        try:
            stated = self.given(item)
        except Exception as error:  # the user's own code
            fix = "it is called with the batch as the iterable yields it"
            raise AnalysisError(f"it fails: {first_line(error)}", where=where, fix=fix) from error
        if isinstance(stated, bool) or not isinstance(stated, int) or stated < 1:
            raise AnalysisError(f"it is {stated!r}", where=where, fix="return the number of samples, 1 or more")
        return stated

    def _counted(self, batch: Batch, stated: int | None) -> Batch:
        assert self.rule is not None  # decided on the first batch
        if stated is not None:
            samples = stated
        elif not self.rule.known:
            samples = 1
        elif self.rule.dim is None:
            samples = _leading_of(batch.target) or 1
        else:
            samples = _first(batch).shape[self.rule.dim]
        return replace(batch, samples=samples, dim=self.rule.dim)

    def _fits(self, batch: Batch, stated: int | None) -> bool:
        assert self.rule is not None  # asked only then
        if not self.rule.by_target:
            return True
        known, first = stated or _leading_of(batch.target), _first(batch)
        return known is not None and (
            self.rule.dim is None or first.shape[self.rule.dim : self.rule.dim + 1] == (known,)
        )

    def _decide(self, batch: Batch, stated: int | None) -> _Rule:
        """Decide by one batch how all are counted."""
        first, *others = [tensor for tensor in tensors_in(batch.inputs) if tensor.ndim]
        count = stated or _leading_of(batch.target)
        if count is not None:
            in_front, second = count == first.shape[0], first.ndim > 1 and count == first.shape[1]
            if in_front and (stated or not _share_two(first, batch.target)):
                return _Rule(0, by_target=True)
            if in_front:
                return _Rule(1, by_target=False) if self._dim(batch) == 1 else _Rule(0, by_target=True)
            if second and self._lie_along(batch, 1):
                return _Rule(1, by_target=True)
            if stated or any(len(tensor) == count for tensor in others) or count in self._output_sizes(batch):
                return _Rule(None, by_target=True)
        dim = self._dim(batch) if stated is None else None
        if dim is None and batch.target is None and all(len(tensor) == len(first) for tensor in others):
            dim = 0
        return _Rule(dim, by_target=False, known=dim is not None)

    def _dim(self, batch: Batch) -> int | None:
        """Return the dimension of the inputs along which the model keeps samples apart, the leading one first."""
        dims = range(min(_first(batch).ndim, 2))
        return next((dim for dim in dims if self._lie_along(batch, dim)), None)

    def _lie_along(self, batch: Batch, dim: int) -> bool:
        along = replace(batch, samples=_first(batch).shape[dim], dim=dim)
        return samples_lie_along(self.graph_module, along, self.place)

    def _output_sizes(self, batch: Batch) -> set[int]:
        nodes = frozenset(self.graph_module.graph.output_node().all_input_nodes)
        try:
            values = run_in_eval(self.graph_module, batch, nodes, self.place).values.values()
        except Exception:  # the model's own code; where the batch is scored, its error is told
            return set()
        return {len(value) for value in values if isinstance(value, Tensor) and value.ndim}


def _first(batch: Batch) -> Tensor:
    """Return the first tensor of a batch's inputs that has a dimension."""
    return next(tensor for tensor in tensors_in(batch.inputs) if tensor.ndim)


def _leading_of(target: Any) -> int | None:
    """Return the leading dimension that all tensors of a target share, or the length of a list of anything else."""
    if isinstance(target, list) and target and not all(isinstance(item, Tensor | int | float) for item in target):
        return len(target)
    sizes = {len(tensor) for tensor in tensors_in(target) if tensor.ndim}
    return sizes.pop() if len(sizes) == 1 else None


def _share_two(first: Tensor, target: Any) -> bool:
    """Whether input and target share their first two dimensions, so that either may be the samples'."""
    return first.ndim > 1 and any(
        tensor.shape[:2] == first.shape[:2] for tensor in tensors_in(target) if tensor.ndim > 1
    )


def _shapes(batch: Batch) -> list[torch.Size]:
    return [tensor.shape for part in (batch.inputs, batch.target) for tensor in tensors_in(part)]
