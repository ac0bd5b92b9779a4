"""Scores that are sums over the data: one batch in memory at a time, halves kept apart."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.cross_fit import mean_and_error
from fxgrow.curvature.matrices import Piece, deal_out
from fxgrow.curvature.probe import Probe
from fxgrow.curvature.ranks import spearman
from fxgrow.curvature.reading import Reading
from fxgrow.curvature.scores import SiteScores
from fxgrow.execution.inputs import device_of

UNSPLIT = "one batch whose input does not have the images in front cannot be halved; give at least two batches"

#: values of single units ``(units, neurons)`` and the images in each, for either half
UnitValues = tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]


def each_batch(probe: Probe, readings: Sequence[Reading]) -> Iterator[dict[Reading, list[Piece]]]:
    """Run the batches one after the other and yield what each reading saw, the model already at rest again."""
    values = [node for reading in readings for node in reading.values]
    nodes = list(dict.fromkeys(node for reading in readings for node in reading.differentiated))
    places = probe.places(node for reading in readings for node in reading.inputs)
    for batch in probe.batches:
        with probe.forward(batch, values=values, differentiable=nodes) as run:
            gradients = run.gradients(nodes)
            seen = {reading: reading.pieces(run.values, gradients, batch, places) for reading in readings}
            del gradients
        yield seen


def solving(probe: Probe) -> AbstractContextManager[None]:
    """Compute apart from the model of a probe (`without_autograd`)."""
    return without_autograd(probe.graph_module)


@contextmanager
def without_autograd(graph_module: fx.GraphModule) -> Iterator[None]:
    """Compute without autograd, and in the precision of the tensors at hand whatever autocast the caller is in."""
    device = device_of(graph_module).type
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
        yield


def in_halves(batches: Sequence[Batch], pieces: Sequence[Piece]) -> list[tuple[int, list[Piece]]] | None:
    """Return what a site saw in one batch, by half; None where a single batch does not show its images."""
    if len(batches) > 1:
        halves = deal_out({batch.index: batch.images for batch in batches})
        return [(halves[pieces[0].source[0]], list(pieces))]
    if any(piece.units < 2 for piece in pieces):
        return None
    return [(half, [piece.half(half) for piece in pieces]) for half in (0, 1)]


def scores_of_means(values: UnitValues, *, sign: int) -> SiteScores:
    """Return scores that are plain means over images: nothing is fitted, so value and held-out value are the same."""
    everything = [*values[0], *values[1]]
    mean, error = mean_and_error([(torch.cat([v for v, _ in everything]), torch.cat([n for _, n in everything]))])
    return SiteScores(mean, mean, error, sign=sign, reliability=spearman(*(half_mean(half) for half in values)))


def half_mean(half: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the mean over images of the values of one half, ``(neurons,)``."""
    values, images = (torch.cat(parts) for parts in zip(*half, strict=True))
    return (values * images[:, None]).sum(0) / images.sum()
