"""Capture in bounded memory: sites in groups, the data run again for each group."""

from collections.abc import Iterable, Iterator

from torch import Tensor

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.capture import ForwardPass
from fxgrow.curvature.matrices import Piece
from fxgrow.curvature.probe import Probe
from fxgrow.curvature.reading import Reading
from fxgrow.errors import AnalysisError

#: how many tensors of the size of all Lanczos vectors are alive at once, for each iteration: the basis and a copy
_BASIS_COPIES = 2


def captured_groups(probe: Probe, readings: Iterable[Reading]) -> Iterator[list[tuple[Reading, list[Piece]]]]:
    """Yield readings with all that they read over the probe data, in groups that fit `probe.max_memory`.

    How large the tensors are is learnt from the first batch. A site that alone is too large comes in several readings
    of some rows each. The consumer lets go of a group (it may pop from the list) before it asks for the next.

    Raises:
        AnalysisError: If the inputs of one site alone do not fit.
    """
    remaining = list(readings)
    places = probe.places(node for reading in remaining for node in reading.inputs)
    while remaining:
        group: list[Reading] = []
        pieces: dict[Reading, list[Piece]] = {}
        for batch in probe.batches:
            recorded = group or remaining
            values = [node for reading in recorded for node in reading.values]
            differentiable = [node for reading in recorded for node in reading.differentiated]
            with probe.forward(batch, values=values, differentiable=differentiable) as run:
                if not group:
                    group, remaining = _first_group(probe, remaining, run, batch)
                    pieces = {reading: [] for reading in group}
                last_reader = {node: reading for reading in group for node in reading.differentiated}
                gradients = run.gradients(list(last_reader))
                for reading in group:
                    pieces[reading].extend(reading.pieces(run.values, gradients, batch, places))
                    for node in set(reading.differentiated):
                        if last_reader[node] is reading:
                            del gradients[node]  # its coefficients are a copy
        yield list(pieces.items())


def _first_group(
    probe: Probe, readings: list[Reading], run: ForwardPass, batch: Batch
) -> tuple[list[Reading], list[Reading]]:
    """Return the readings that fit together, in order, and the rest."""
    group: list[Reading] = []
    captured = working = 0
    for index, reading in enumerate(readings):
        inputs, coefficients = _bytes(probe, reading, run, batch)
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
    """Return the bytes of the inputs and of the coefficients of a reading over all probe data."""
    share = probe.images / batch.images
    inputs = sum(_size(run.values[node]) for node in reading.inputs)
    coefficients = sum(_size(run.values[node]) for node in reading.differentiated)
    return int(inputs * share), int(coefficients * share) * reading.map.neurons // reading.site.neurons


def _size(value: Tensor) -> int:
    return int(value.numel()) * max(value.element_size(), 4)


def _working_bytes(probe: Probe, reading: Reading, run: ForwardPass, captured: int) -> int:
    """Return the bytes that solving takes: the Lanczos basis, and for a single batch the halves that are copied."""
    itemsize: int = max(run.values[reading.inputs[0]].element_size(), 4)
    steps = min(probe.iterations, reading.map.features)
    basis = _BASIS_COPIES * steps * reading.map.neurons * reading.map.features * itemsize
    return basis + (captured if len(probe.batches) == 1 else 0)


def _in_rows(probe: Probe, reading: Reading, run: ForwardPass, inputs: int, coefficients: int) -> list[Reading]:
    """Divide a reading into several of fewer rows, each of which fits."""
    neurons = reading.map.neurons
    working = _working_bytes(probe, reading, run, inputs + coefficients)
    fixed = inputs * (2 if len(probe.batches) == 1 else 1)
    per_row = (inputs + coefficients + working - fixed) / neurons
    rows = int((probe.max_memory - fixed) / per_row)
    if rows < 1 or reading.map.groups > 1:
        needed = int(fixed + per_row * (neurons if reading.map.groups > 1 else 1)) + 1
        raise AnalysisError(
            f"its inputs over {probe.images} images need {needed:,} bytes where max_memory is {probe.max_memory:,}",
            where=reading.site.path,
            fix=f"give max_memory={needed}, fewer images, or leave the site out",
        )
    start = reading.rows.start if reading.rows else 0
    bounds = range(start, start + neurons, rows)
    return [reading.some_rows(slice(first, min(first + rows, start + neurons))) for first in bounds]
