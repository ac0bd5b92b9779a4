"""Eigen-scores out of a training step: its own forward and backward pass serve as the capture."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.curvature.analysis import DEFAULT_ITERATIONS, DEFAULT_SETTLED, only_reached
from fxgrow.curvature.batches import Batch, as_inputs
from fxgrow.curvature.capture import Recorder, arguments
from fxgrow.curvature.cross_fit import cross_fit
from fxgrow.curvature.eigen import splittable
from fxgrow.curvature.matrices import CapturedCall, CurvatureMatrices, deal_out, split_in_halves
from fxgrow.curvature.probe import without_autograd
from fxgrow.curvature.probe_data import CountSamples, SampleCounter, check_samples
from fxgrow.curvature.reading import Reading
from fxgrow.curvature.sample_dimension import SampleDimension, find_sample_dimensions
from fxgrow.curvature.scores import Scores, SiteScores
from fxgrow.curvature.selection import select_sites
from fxgrow.errors import AnalysisError
from fxgrow.execution.inputs import device_of
from fxgrow.execution.ranks import Group, Ranks
from fxgrow.graph.sites import find_sites
from fxgrow.primitives.unwrapping import unwrap
from fxgrow.record.digest import digest


class StepRecorder:
    """Runs the model in a training step and keeps what eigen-scores are made of: they need no pass of their own.

    Call it in place of the model, call ``loss.backward()`` on the mean loss as always, then `scores`. Unlike
    `fxgrow.analyze` the pass is a part of training: it moves BatchNorm's statistics and the random state as a step
    does, and backward fills ``.grad``. Steps of an accumulated gradient may follow each other; call `scores` before the
    optimizer moves the weights. The scores are those of ``score="eigen"`` on the batches that were seen.

    Args:
        traced: The traced model.
        sites: Module paths or patterns of the sites to score; all of them if None.
        samples: Says how many samples the inputs hold, as for `fxgrow.analyze`.

    Raises:
        AnalysisError: If a pattern matches no site, or no site can grow.

    Example:
        >>> model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)))
        >>> recorder = StepRecorder(model)
        >>> recorder(torch.randn(256, 4)).square().sum(1).mean().backward()
        >>> scores = recorder.scores(iterations=8)
    """

    def __init__(
        self, traced: nn.Module, *, sites: Iterable[str] | None = None, samples: CountSamples | None = None
    ) -> None:
        self.graph_module = unwrap(traced)
        chosen = select_sites(self.graph_module, sites)
        self.refusals, growable = chosen.refusals, chosen.growable
        if not growable:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in self.refusals.items())
            raise AnalysisError(f"none of its sites can grow ({reasons})", where="the traced model", fix="name others")
        readings, unsplittable = splittable(self.graph_module, growable)
        self.readings = [*readings, *(Reading.branch(growable[path]) for path in unsplittable)]
        self._captured: dict[Reading, list[CapturedCall]] = {reading: [] for reading in self.readings}
        self._pending: tuple[Recorder, Batch] | None = None
        self._dimensions: dict[fx.Node, SampleDimension | None] = {}
        self._counter = SampleCounter(self.graph_module, samples)
        self._reached: dict[str, Tensor] = {}
        self._last: list[Batch] = []
        self._batches = 0

    def __call__(self, *inputs: Any) -> Any:
        """Return the model's output; `inputs` are its positional arguments, or one dict by keyword."""
        self._collect()
        given = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Mapping) else inputs
        read = as_inputs(self._batches, given, device_of(self.graph_module))
        self._last = self._counter.add(self._last, Batch(self._batches, read, None, 0), given)[-1:]
        (batch,) = self._last
        if not self._batches:  # two samples, once; where they lie is the same in all batches
            nodes_read = [node for reading in self.readings for node in reading.inputs]
            self._dimensions = find_sample_dimensions(self.graph_module, nodes_read, batch)
        values = frozenset(node for reading in self.readings for node in reading.values)
        nodes = frozenset(node for reading in self.readings for node in reading.differentiated)
        recorder = Recorder(self.graph_module, values | nodes, nodes, frozenset())
        output = recorder.run(*arguments(self.graph_module, batch))
        for node in nodes:
            recorder.values[node].retain_grad()
        self._pending, self._batches = (recorder, batch), self._batches + 1
        return output

    def scores(
        self,
        *,
        iterations: int = DEFAULT_ITERATIONS,
        settled: float | None = DEFAULT_SETTLED,
        seed: int = 0,
        group: Group = None,
    ) -> Scores:
        """Return the scores on all batches since the last call, write them on the nodes, and forget the batches.

        Under torch.distributed the batches of all ranks count (`group`, as for `fxgrow.analyze`).

        Raises:
            AnalysisError: If backward was not called, or an in-place operation has changed what was recorded.
        """
        self._collect()
        if not self._captured[self.readings[0]]:
            raise AnalysisError("no step has been recorded", where="scores", fix="call the recorder, then backward")
        ranks = Ranks(group)
        own = {call.source[0]: call.samples for call in self._captured[self.readings[0]]}
        first, sizes = ranks.numbered(list(own.values()))
        to_own = min(own) - first  # from numbers over all ranks to those of this recorder
        halves = {index + to_own: half for index, half in deal_out(sizes).items()}
        check_samples(sum(sizes.values()))
        found: dict[str, SiteScores] = {}
        for reading in self.readings:
            parts = split_in_halves(self._captured[reading], halves)
            self._captured[reading] = []
            with without_autograd(self.graph_module):
                fitted = cross_fit(
                    [CurvatureMatrices(reading.map, part, ranks) for part in parts],
                    iterations=iterations,
                    seed=seed,
                    settled=settled,
                )
            found[reading.site.path] = fitted.scores(sign=-1, matrix=reading.matrix)
        reached = {path: ranks.largest(rows.int()).bool() for path, rows in self._reached.items()}
        marked, dark = only_reached(found, reached)
        self._reached = {}
        ordered = {path: marked[path] for path in find_sites(self.graph_module) if path in marked}
        scores = Scores(
            ordered,
            score="eigen",
            digest=digest(self.graph_module),
            samples=sum(sizes.values()),
            refusals={**self.refusals, **dark},
        )
        scores.annotate(self.graph_module)
        return scores

    def _collect(self) -> None:
        """Turn the last forward pass, and the gradients that backward left at its values, into captured."""
        if self._pending is None:
            return
        (recorder, batch), self._pending = self._pending, None
        if recorder.mutated():
            fix = "trace it with fxgrow.trace, which makes them out of place"
            raise AnalysisError("an operation in place changed what was recorded", where="the model", fix=fix)
        values = {node: recorder.values[node] for reading in self.readings for node in reading.differentiated}
        if all(value.grad is None for value in values.values()):
            fix = "call loss.backward() after each forward pass"
            raise AnalysisError("no gradient has come back to any site", where=f"step {batch.index}", fix=fix)
        gradients = {node: torch.zeros_like(v) if v.grad is None else v.grad for node, v in values.items()}
        with torch.no_grad():
            for reading in self.readings:
                path, reached = reading.site.path, reading.reached_rows(recorder.values, gradients)
                assert reached is not None  # eigen-scores read the site's own matrix
                self._reached[path] = self._reached.get(path, reached) | reached
                self._captured[reading].extend(reading.captured(recorder.values, gradients, batch, self._dimensions))
