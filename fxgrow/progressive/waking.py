"""What becomes of the weights when idle blocks wake: half-steps of their neighbours."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from fxgrow.primitives.modules import fetch_attribute
from fxgrow.progressive.parts import Part, Parts
from fxgrow.progressive.stages import source_of
from fxgrow.record.record import WAKING, Growth, GrowthEvent


@dataclass(frozen=True)
class Advance:
    """What one advance did."""

    stage: int
    woken: dict[str, list[str]]  #: the paths of the blocks that woke, by the block that they are half-steps of
    restarted: int  #: parameters whose moments the optimizer begins anew


def woken_from(parts: Parts, before: frozenset[int], after: frozenset[int]) -> dict[Part, list[Part]]:
    """Return the blocks that run in a stage and not in the one before, by the block that they start from."""
    found: dict[Part, list[Part]] = defaultdict(list)
    for woken in sorted(after - before):
        found[parts.parts[source_of(parts, woken, before)]].append(parts.parts[woken])
    return dict(found)


def wake_parts(model: nn.Module, woken: Mapping[Part, Collection[Part]]) -> None:
    """Write the weights of blocks that wake, in place.

    A block and those that start from it are copies of each other, with all their residual branches divided by their
    number: ``x + f(x)`` becomes ``y = x + f(x)/2, y + f(y)/2`` (Chang et al., ICLR 2018, arXiv 1710.10348).
    """
    with torch.no_grad():
        for source, started in woken.items():
            _scale(model, source, 1 / (len(started) + 1))
            for target in started:
                _copy(model, source, target)


def touched_parameters(model: nn.Module, woken: Mapping[Part, Collection[Part]]) -> list[nn.Parameter]:
    """Return the parameters of blocks that were split into steps, and of the steps."""
    return [value for source, started in woken.items() for part in (source, *started) for value in learnt(model, part)]


def learnt(model: nn.Module, part: Part) -> list[nn.Parameter]:
    """Return the parameters of a block."""
    found = (fetch_attribute(model, name) for name in part.tensors)
    return [value for value in found if isinstance(value, nn.Parameter)]


def event_of(model: nn.Module, woken: Mapping[Part, Collection[Part]], *, before: int, after: int) -> GrowthEvent:
    """Return the waking as a line of the growth history; `before` and `after` count the parameters that run."""
    growths = tuple(
        Growth(WAKING, source.path, sum(value.numel() for value in learnt(model, part)), path=part.path)
        for source, started in woken.items()
        for part in started
    )
    return GrowthEvent(before, after, growths, first_edit=0)


def _scale(model: nn.Module, part: Part, factor: float) -> None:
    for name in part.ends:
        fetch_attribute(model, name).mul_(factor)


def _copy(model: nn.Module, source: Part, target: Part) -> None:
    for known, own in zip(source.tensors, target.tensors, strict=True):
        fetch_attribute(model, own).copy_(fetch_attribute(model, known))
