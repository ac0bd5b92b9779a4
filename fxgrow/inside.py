"""Growing a part of a model that cannot be traced as a whole: a detector's backbone, an encoder, one tower of two.

The model stays what it is, an object of its own class with its methods. At one path of it lies a traced part, which
stays the same object when it grows, and is scored with the loss of the whole.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
import torch.fx as fx
from torch import nn
from torch.fx.graph_module import _USER_PRESERVED_ATTRIBUTES_KEY

from fxgrow.curvature import analyze
from fxgrow.curvature.batches import Batch, as_inputs
from fxgrow.curvature.capture import LossFunction, loss_of
from fxgrow.curvature.probe_data import CountSamples, pair_of, read_batches
from fxgrow.errors import AnalysisError, TraceError, VerificationError
from fxgrow.execution.calling import Inputs
from fxgrow.execution.inputs import device_of
from fxgrow.execution.place import Place
from fxgrow.execution.preservation import preserved
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.graph.identity import become
from fxgrow.growth import grow
from fxgrow.optimizers import Optimizers, unchanged_on_failure
from fxgrow.primitives.unwrapping import bare
from fxgrow.record.record import remember
from fxgrow.tracing import trace
from fxgrow.verification import verify


def trace_inside(model: nn.Module, path: str, example_inputs: Any) -> fx.GraphModule:
    """Put in the place of a part of `model` its trace, and return that; what is traced already stays.

    The trace shares the part's parameters, under their names, and has the part's attributes (``config``,
    ``out_channels``), for what else reads them. The part is traced on what it is given when the model runs, in the mode
    that the model is in.

    Args:
        model: The model, which is changed at `path` only; of one in DistributedDataParallel, what lies inside.
        path: Module path of the part, as ``"backbone"`` or ``"vit.encoder"``.
        example_inputs: Inputs of the whole model, as for `fxgrow.trace`.

    Raises:
        TraceError: If nothing lies there, the model does not call it, or it cannot be traced.
    """
    place = Place(bare(model), path)
    part = place.module
    if isinstance(part, fx.GraphModule):
        return part
    if isinstance(bare(part), fx.GraphModule):
        raise TraceError("it is compiled", where=path, fix="put the traced part there, and compile anew when it grew")
    traced = trace(part, place.inputs(example_inputs))
    attributes = {
        name: value
        for name, value in vars(part).items()
        if not name.startswith("_") and name not in vars(traced) and not hasattr(type(traced), name)
    }
    for name, value in attributes.items():
        setattr(traced, name, value)
    traced.meta[_USER_PRESERVED_ATTRIBUTES_KEY] = attributes  # torch.fx gives them to copies
    place.put(traced)
    return traced


def grow_inside(
    model: nn.Module,
    path: str,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    budget: float = 0.10,
    score: str = "eigen",
    operator: str = "serial",
    allocation: str = "even",
    include: tuple[str, ...] | list[str] = (),
    exclude: tuple[str, ...] | list[str] = (),
    optimizer: Optimizers | None = None,
    max_samples: int | None = 512,
    samples: CountSamples | None = None,
    seed: int = 0,
    context: Mapping[str, Any] | None = None,
) -> fx.GraphModule:
    """Grow a part of `model` in place: trace it if it is not, score it with the whole loss, grow it and verify it.

    Either all of it happens or nothing. `model` stays the same object, and so does the traced part from then on: who
    holds either of them (an optimizer, a trainer, an average of the weights) goes on.

    Args:
        model: Any model; it may be one that cannot be traced.
        path: Module path of the part that grows. The model calls it once for each batch.
        loss_fn: Maps the output of the whole model and the target to the mean loss; None for a model that returns it.
        batches: Pairs ``(inputs, target)`` of inputs of the whole model; with ``loss_fn=None`` inputs alone.
        budget: Parameters to add at most: a float is a fraction of the part's, an int a number.
        score: The score that ranks the neurons (`fxgrow.analyze`).
        operator: The kind of pseudo-layer.
        allocation: How the budget is shared out among sites.
        include: Module paths within the part, or shell patterns, of the only sites that may grow.
        exclude: Module paths or shell patterns of sites that may not.
        optimizer: The optimizer that trains the model, or several: it takes in what is new.
        max_samples: Samples that the analysis reads at most.
        samples: Says how many samples a batch holds, where neither target nor model shows it: for a detector
            ``lambda batch: len(batch[0][0])``.
        seed: Seed of the analysis and of the new parameters.
        context: What the growth history shall remember of this event, JSON values.

    Returns:
        The part, traced and grown, which lies at `path`. Its history says what grew.

    Raises:
        TraceError: If the part cannot be traced.
        AnalysisError: If the batches or the loss do not fit.
        PlanError: If no plan fits, or the optimizer does not hold what grows.
        VerificationError: If the grown part computes something else, or the model's loss is another.

    Example:
        >>> class Doubtful(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.features, self.head = nn.Sequential(nn.Linear(4, 8), nn.GELU()), nn.Linear(8, 2)
        ...     def forward(self, x):
        ...         return self.head(self.features(x if x.sum() > 0 else -x))
        >>> model, data = Doubtful(), [(torch.randn(256, 4), torch.randint(2, (256,)))]
        >>> grown = grow_inside(model, "features", nn.functional.cross_entropy, data, budget=60)
        >>> grown is model.features, type(model).__name__, bool(dict(grown.named_buffers()))
        (True, 'Doubtful', True)
    """
    place = Place(bare(model), path)
    item, batches = _first_of(batches, seed)
    first = Batch(0, as_inputs(0, item if loss_fn is None else pair_of(0, item)[0], device_of(place.model)), None, 0)
    with _part_put_back_on_failure(place), unchanged_on_failure(optimizer):
        traced = trace_inside(model, path, first.inputs)
        read = read_batches(
            traced,
            batches,
            seed=seed,
            max_samples=max_samples,
            samples=samples,
            targets=loss_fn is not None,
            place=place,
        )
        scores = analyze(traced, loss_fn, read, score=score, sites=include or None, seed=seed, place=place)
        grown = grow(
            traced,
            scores,
            budget=budget,
            operator=operator,
            allocation=allocation,
            include=include,
            exclude=exclude,
            optimizer=optimizer,
            seed=seed,
        )
        verify(traced, grown, place.inputs(read[0].inputs))
        losses = [_loss(place, computed, loss_fn, read[0], seed) for computed in (traced.forward, grown)]
        _check_equal(*losses, path)
        remember(grown, {**(context or {}), "loss_before": losses[0], "loss_after": losses[1]})
        become(traced, grown)
    return traced


def _first_of(batches: Iterable[Any], seed: int) -> tuple[Any, Iterable[Any]]:
    """Return the first batch, and batches that still have it."""
    with preserved_randomness(seed):
        iterator = iter(batches)
        for first in iterator:
            return first, chain([first], iterator) if iterator is batches else batches
    raise AnalysisError("there is no batch in it", where="batches", fix="give pairs (inputs, target)")


@contextmanager
def _part_put_back_on_failure(place: Place) -> Iterator[None]:
    part = place.module
    try:
        yield
    except BaseException:
        place.put(part)
        raise


def _loss(place: Place, compute: Callable[..., Any], loss_fn: LossFunction, batch: Batch, seed: int) -> float:
    """Return the loss of the whole model on one batch in its mode, with the part computed by `compute`."""
    with preserved(place.model, seed=seed), torch.no_grad(), place.computing(compute):
        return float(loss_of(loss_fn, Inputs.of(place.model, batch.inputs).call(place.model), batch))


def _check_equal(before: float, after: float, path: str) -> None:
    if not abs(after - before) <= 1e-5 * max(1.0, abs(before)):
        what = f"the model's loss on the same batch is {before:.8g} before it grew and {after:.8g} after"
        raise VerificationError(what, where=path, fix="report this with the model; nothing has changed")
