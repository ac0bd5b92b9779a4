"""What becomes of the weights when idle blocks wake: half-steps of their neighbours."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import nn

from fxgrow.primitives.modules import fetch_attribute
from fxgrow.progressive.parts import Part, Parts
from fxgrow.progressive.stages import source_of


def wake_parts(model: nn.Module, parts: Parts, before: frozenset[int], after: frozenset[int]) -> dict[str, list[str]]:
    """Write the weights of the blocks that run in a stage and not in the one before, in place.

    A block and those that start from it are copies of each other, with all their residual branches divided by their
    number: ``x + f(x)`` becomes ``y = x + f(x)/2, y + f(y)/2`` (Chang et al., ICLR 2018, arXiv 1710.10348).

    Returns:
        The paths of the woken blocks, by the path of the block that they start from.
    """
    groups = sources(parts, before, after)
    with torch.no_grad():
        for source, started in groups.items():
            _scale(model, parts.parts[source], 1 / (len(started) + 1))
            for index in started:
                _copy(model, parts.parts[source], parts.parts[index])
    return {parts.parts[source].path: [parts.parts[i].path for i in started] for source, started in groups.items()}


def sources(parts: Parts, before: frozenset[int], after: frozenset[int]) -> dict[int, list[int]]:
    """Return which blocks wake from one stage to the next, by the block that each starts from."""
    groups: dict[int, list[int]] = defaultdict(list)
    for woken in sorted(after - before):
        groups[source_of(parts, woken, before)].append(woken)
    return dict(groups)


def touched_parameters(model: nn.Module, parts: Parts, woken: Mapping[str, list[str]]) -> list[nn.Parameter]:
    """Return the parameters of blocks that were split into steps, and of the steps."""
    paths = {*woken, *(path for group in woken.values() for path in group)}
    names = dict.fromkeys(name for part in parts.parts if part.path in paths for name in part.tensors)
    found = (fetch_attribute(model, name) for name in names)
    return [value for value in found if isinstance(value, nn.Parameter)]


def _scale(model: nn.Module, part: Part, factor: float) -> None:
    for name in part.ends:
        fetch_attribute(model, name).mul_(factor)


def _copy(model: nn.Module, source: Part, target: Part) -> None:
    for known, own in zip(source.tensors, target.tensors, strict=True):
        fetch_attribute(model, own).copy_(fetch_attribute(model, known))
