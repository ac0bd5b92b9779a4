"""Growing a part of a model that cannot be traced as a whole: a detector's backbone, an encoder, one tower of two.

The model stays what it is, an object of its own class with its methods. At one path of it lies a traced part, which
stays the same object when it grows, and is scored with the loss of the whole.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch.fx as fx
from torch import nn

from fxgrow.curvature.batches import as_inputs
from fxgrow.curvature.capture import LossFunction
from fxgrow.curvature.probe_data import PAIRS_IN_WORDS, CountSamples, pair_of
from fxgrow.errors import AnalysisError, PlanError, TraceError
from fxgrow.execution.inputs import device_of
from fxgrow.execution.place import Place
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.growth.budget import BUDGET_IN_WORDS, resolve_budget
from fxgrow.optimizers import Optimizers, unchanged_on_failure
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.primitives.modules import parameter_count
from fxgrow.primitives.unwrapping import bare
from fxgrow.record.record import remember
from fxgrow.tracing import trace
from fxgrow.training.events import Event, check_equal
from fxgrow.training.growing import Growing
from fxgrow.verification import verify


@checks_arguments(TraceError)
def trace_inside(
    model: nn.Module, path: str, example_inputs: Any, *, compile_options: Mapping[str, Any] | None = None
) -> Growing:
    """Put in the place of a part of `model` its trace, and return that; what lies there and can grow already stays.

    What is put there (`fxgrow.training.Growing`) shares the part's parameters, under their names, and has the part's
    attributes (``config``, ``out_channels``), for what else reads them; the state dict of the model says by it how the
    part grew. The part is traced on what it is given when the model runs, in the mode that the model is in.

    Args:
        model: The model, which is changed at `path` only; of one in DistributedDataParallel, what lies inside.
        path: Module path of the part, as ``"backbone"`` or ``"vit.encoder"``.
        example_inputs: Inputs of the whole model, as for `fxgrow.trace`.
        compile_options: Options of ``torch.compile``, to run the part compiled block by block.

    Raises:
        TraceError: If nothing lies there, the model does not call it, or it cannot be traced.
    """
    place = Place(bare(model), path)
    part = place.module
    if isinstance(part, Growing):
        return part
    if part is not bare(part):
        fix = "put the plain part there, and give compile_options for one that is compiled"
        raise TraceError("it is compiled or wrapped", where=path, fix=fix)
    traced = part if isinstance(part, fx.GraphModule) else trace(part, place.inputs(example_inputs))
    growing = Growing(traced, compile_options=compile_options)
    for name, value in vars(part).items():
        if not name.startswith("_") and not hasattr(growing, name):
            setattr(growing, name, value)
    place.put(growing)
    return growing


@checks_arguments(PlanError, budget=BUDGET_IN_WORDS, batches=PAIRS_IN_WORDS)
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
    max_samples: int = 512,
    samples: CountSamples | None = None,
    seed: int = 0,
    context: Mapping[str, Any] | None = None,
) -> Growing:
    """Grow a part of `model` in place: trace it if it is not, score it with the whole loss, grow it and verify it.

    Either all of it happens or nothing. `model` stays the same object, and so does the traced part from then on: who
    holds either of them (an optimizer, a trainer) goes on. For several events by a schedule, and averages of the
    weights, give what `trace_inside` returns to `fxgrow.Grower`, with ``within=model``.

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
        The part, traced and grown, which lies at `path`. The history of its `graph_module` says what grew.

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
    inputs = as_inputs(0, item if loss_fn is None else pair_of(0, item)[0], device_of(place.model))
    event = Event(loss_fn, score, operator, allocation, tuple(include), tuple(exclude), max_samples, samples, place)
    with _part_put_back_on_failure(place), unchanged_on_failure(optimizer):
        growing = trace_inside(model, path, inputs)
        read = event.read(growing.graph_module, batches, seed)
        measured, scores = event.measure(growing.graph_module, read, seed)
        limit = resolve_budget(parameter_count(measured), budget)
        grown = event.grow(measured, scores, limit, optimizer, seed)
        before, after = event.loss(measured, read[0]), event.loss(grown, read[0])
        if event.preserves_function:
            verify(measured, grown, place.inputs(read[0].inputs))
            check_equal(before, after)
        remember(grown, {**(context or {}), "loss_before": before, "loss_after": after})
        growing.become(grown)
    return growing


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
