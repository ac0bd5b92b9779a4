"""A probe: the model, the loss, the data and the sites of one analysis; and what the sites see when it is run.

Scores that are sums over the data take one batch at a time (`each_batch`); solvers go over the data many times and take
all batches of some sites (`captured_groups`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.capture import ForwardPass, LossFunction, forward_pass
from fxgrow.curvature.matrices import CapturedCall, deal_out
from fxgrow.curvature.reading import Reading
from fxgrow.curvature.sample_dimension import SampleDimension, find_sample_dimensions, given_to_part
from fxgrow.errors import AnalysisError
from fxgrow.execution.inputs import device_of
from fxgrow.execution.place import Place
from fxgrow.execution.preservation import preserved
from fxgrow.execution.ranks import ALONE, Ranks
from fxgrow.graph.sites import Site

#: how many tensors of the size of all Lanczos vectors are alive at once, for each iteration: the basis and a copy
_BASIS_COPIES = 2


@dataclass(frozen=True, eq=False)
class Probe:
    """What a score is measured on, and within which bounds."""

    graph_module: fx.GraphModule
    loss_fn: LossFunction
    batches: tuple[Batch, ...]
    sites: Mapping[str, Site]  #: the sites to score, by module path
    iterations: int
    seed: int
    settled: float | None  #: stop Lanczos when the rank correlation with an earlier iteration reaches this
    max_memory: int  #: bytes that captured tensors and solvers may take, beside a training step's own memory
    place: Place | None = None  #: where the graph lies in a larger model, which is run
    ranks: Ranks = ALONE  #: which have other batches of the probe data
    #: the samples of every batch on all ranks, by `Batch.index`; those of `batches` if left out
    sizes: Mapping[int, int] = field(default_factory=dict)
    _dimensions: dict[fx.Node, SampleDimension | None] = field(default_factory=dict, init=False)
    _reached: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if not self.sizes:
            object.__setattr__(self, "sizes", {batch.index: batch.samples for batch in self.batches})

    @property
    def samples(self) -> int:
        """The number of samples of probe data on all ranks, N."""
        return sum(self.sizes.values())

    @cached_property
    def halves(self) -> Mapping[int, int]:
        """The half of the data, 0 or 1, that every batch belongs to."""
        return deal_out(self.sizes)

    def forward(
        self, batch: Batch, *, values: Iterable[fx.Node] = (), differentiable: Iterable[fx.Node] = ()
    ) -> AbstractContextManager[ForwardPass]:
        """Run `batch` and record the values at some nodes (`fxgrow.curvature.capture.forward_pass`).

        A batch sees the same dropout masks however often it is run.
        """
        return forward_pass(
            self.graph_module,
            self.loss_fn,
            batch,
            values=values,
            differentiable=differentiable,
            seed=self.seed + batch.index,
            place=self.place,
        )

    def dimensions(self, nodes: Iterable[fx.Node]) -> Mapping[fx.Node, SampleDimension | None]:
        """Return where the samples lie in the values at some nodes, at least (`find_sample_dimensions`)."""
        unknown = [node for node in nodes if node not in self._dimensions]
        if unknown:
            batch = self.batches[0] if self.place is None else given_to_part(self.batches[0], self.place)
            self._dimensions.update(find_sample_dimensions(self.graph_module, unknown, batch))
        return self._dimensions

    def note(self, reading: Reading, values: Mapping[fx.Node, Tensor], gradients: Mapping[fx.Node, Tensor]) -> None:
        """Note which neurons of a site got a gradient of the loss in a batch that was run for a score."""
        known = self._reached.get(reading.site.path)
        if known is None or not bool(known.all()):
            reached = reading.reached_rows(values, gradients)
            if reached is not None:
                self._reached[reading.site.path] = reached if known is None else known | reached

    def reached_rows(self) -> Mapping[str, Tensor]:
        """Return for each site which of its neurons get a gradient of the loss from some sample, ``(neurons,)``.

        What no gradient reaches now because a weight behind it starts at zero will be reached when that weight moves:
        zeros are therefore taken for small numbers, where they are trained.
        """
        self._look_at([site for path, site in self.sites.items() if path not in self._reached])
        self._share_reached()
        dark = [site for path, site in self.sites.items() if not bool(self._reached[path].all())]
        zeros = [p for p in self.graph_module.parameters() if p.requires_grad and bool((p == 0).any())]
        if dark and zeros:
            with preserved(self.graph_module), torch.no_grad():
                generator = torch.Generator().manual_seed(self.seed)
                for parameter in zeros:
                    small = 1e-3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.copy_(torch.where(parameter == 0, small.to(parameter), parameter))
                self._look_at(dark)
            self._share_reached()
        return self._reached

    def _share_reached(self) -> None:
        """Let every rank know what any of them has seen."""
        for path, site in self.sites.items():
            seen = self._reached.get(path, torch.zeros(site.neurons, dtype=torch.bool))
            self._reached[path] = self.ranks.largest(seen.int()).bool()

    def _look_at(self, sites: Sequence[Site]) -> None:
        """Run this rank's batches until all neurons of some sites were seen to get a gradient, or all were run."""
        readings = [Reading.branch(site) for site in sites]
        for batch in self.batches:
            readings = [r for r in readings if not bool(self._reached.get(r.site.path, torch.zeros(1)).all())]
            nodes = [node for reading in readings for node in reading.differentiated]
            if not nodes:
                return
            with self.forward(batch, differentiable=nodes) as run:
                gradients = run.gradients(list(dict.fromkeys(nodes)))
                for reading in readings:
                    self.note(reading, run.values, gradients)


def captured_groups(probe: Probe, readings: Iterable[Reading]) -> Iterator[list[tuple[Reading, list[CapturedCall]]]]:
    """Yield readings with all that they read over the probe data, in groups that fit `probe.max_memory`.

    How large the tensors are is learnt from the first batch. A site that alone is too large comes in several readings
    of some rows each. The consumer lets go of a group (it may pop from the list) before it asks for the next.

    Raises:
        AnalysisError: If the inputs of one site alone do not fit.
    """
    remaining = list(readings)
    dimensions = probe.dimensions(node for reading in remaining for node in reading.inputs)
    while remaining:
        group: list[Reading] = []
        captured: dict[Reading, list[CapturedCall]] = {}
        for batch in probe.batches:
            recorded = group or remaining
            values = [node for reading in recorded for node in reading.values]
            differentiable = [node for reading in recorded for node in reading.differentiated]
            with probe.forward(batch, values=values, differentiable=differentiable) as run:
                if not group:
                    group, remaining = _first_group(probe, remaining, run, batch)
                    captured = {reading: [] for reading in group}
                last_reader = {node: reading for reading in group for node in reading.differentiated}
                gradients = run.gradients(list(last_reader))
                for reading in group:
                    probe.note(reading, run.values, gradients)
                    captured[reading].extend(reading.captured(run.values, gradients, batch, dimensions))
                    for node in set(reading.differentiated):
                        if last_reader[node] is reading:
                            del gradients[node]  # its coefficients are a copy
        yield list(captured.items())


def _first_group(
    probe: Probe, readings: list[Reading], run: ForwardPass, batch: Batch
) -> tuple[list[Reading], list[Reading]]:
    """Return the readings that fit together, in order, and the rest; the same on all ranks."""
    group: list[Reading] = []
    captured = working = 0
    sizes = probe.ranks.largest(torch.tensor([_bytes(probe, reading, run, batch) for reading in readings]))
    for index, (reading, (inputs, coefficients)) in enumerate(zip(readings, sizes.tolist(), strict=True)):
        captured += inputs + coefficients
        working = max(working, _working_bytes(probe, reading, run, inputs + coefficients))
        if captured + working > probe.max_memory:
            if not group:
                parts = _in_rows(probe, reading, run, inputs, coefficients)
                return parts[:1], [*parts[1:], *readings[1:]]
            return group, readings[index:]
        group.append(reading)
    return group, []


def _bytes(probe: Probe, reading: Reading, run: ForwardPass, batch: Batch) -> tuple[int, int]:
    """Return the bytes of the inputs and of the coefficients of a reading over the probe data of this rank."""
    share = sum(batch.samples for batch in probe.batches) / batch.samples
    inputs = sum(_size(run.values[node]) for node in reading.inputs)
    coefficients = sum(_size(run.values[node]) for node in reading.differentiated)
    return int(inputs * share), int(coefficients * share) * reading.map.neurons // reading.site.neurons


def _size(value: Tensor) -> int:
    return int(value.numel()) * max(value.element_size(), 4)


def _working_bytes(probe: Probe, reading: Reading, run: ForwardPass, captured: int) -> int:
    """Return the bytes that solving takes: the Lanczos basis, and what is copied of that which was captured."""
    itemsize: int = max(run.values[reading.inputs[0]].element_size(), 4)
    steps = min(probe.iterations, reading.map.features)
    basis = _BASIS_COPIES * steps * reading.map.neurons * reading.map.features * itemsize
    return basis + int(captured * (_copies(probe) - 1))


def _copies(probe: Probe) -> float:
    """Return how often what a site read lies in memory: halves of one batch are copies, and so is what carries one."""
    return 1.0 + (len(probe.sizes) == 1) + (0.5 if probe.settled is not None else 0.0)


def _in_rows(probe: Probe, reading: Reading, run: ForwardPass, inputs: int, coefficients: int) -> list[Reading]:
    """Divide a reading into several of fewer rows, each of which fits."""
    neurons = reading.map.neurons
    working = _working_bytes(probe, reading, run, inputs + coefficients)
    fixed = int(inputs * _copies(probe))
    per_row = (inputs + coefficients + working - fixed) / neurons
    rows = int((probe.max_memory - fixed) / per_row)
    if rows < 1 or reading.map.groups > 1:
        needed = int(fixed + per_row * (neurons if reading.map.groups > 1 else 1)) + 1
        raise AnalysisError(
            f"its inputs over {probe.samples} samples need {needed:,} bytes where max_memory is {probe.max_memory:,}",
            where=reading.site.path,
            fix=f"give max_memory={needed}, fewer samples, or leave the site out",
        )
    start = reading.rows.start if reading.rows else 0
    bounds = range(start, start + neurons, rows)
    return [reading.some_rows(slice(first, min(first + rows, start + neurons))) for first in bounds]


def each_batch(probe: Probe, readings: Sequence[Reading]) -> Iterator[dict[Reading, list[CapturedCall]]]:
    """Run the batches one after the other and yield what each reading saw, the model already at rest again."""
    values = [node for reading in readings for node in reading.values]
    nodes = list(dict.fromkeys(node for reading in readings for node in reading.differentiated))
    dimensions = probe.dimensions(node for reading in readings for node in reading.inputs)
    for batch in probe.batches if nodes else ():
        with probe.forward(batch, values=values, differentiable=nodes) as run:
            gradients = run.gradients(nodes)
            for reading in readings:
                probe.note(reading, run.values, gradients)
            seen = {reading: reading.captured(run.values, gradients, batch, dimensions) for reading in readings}
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
