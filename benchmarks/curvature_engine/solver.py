"""How exact Lanczos is in float32 after 8 and 16 iterations, against explicit matrices in float64."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from measuring.machine import Row, row

from curvature_engine.models import trained_vit
from fxgrow.curvature import analyze
from fxgrow.curvature.cross_fit import cross_fit
from fxgrow.curvature.eigen import splittable
from fxgrow.curvature.matrices import CurvatureMatrices, split_in_halves
from fxgrow.curvature.probe import Probe, captured_groups
from fxgrow.curvature.probe_data import read_batches
from fxgrow.curvature.reading import Reading
from fxgrow.curvature.selection import select_sites
from fxgrow.curvature.statistics import spearman


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    graph_module, x, y = trained_vit(20 if quick else 600)
    samples = 64 if quick else 256
    sites = select_sites(graph_module, ["blocks.*"]).growable
    read, _ = read_batches(graph_module, [(x[:samples], y[:samples])], seed=0)
    probe = Probe(graph_module, F.cross_entropy, read, sites, 16, 0, None, 8 << 30)
    readings, others = splittable(graph_module, sites)
    errors: dict[int, list[torch.Tensor]] = {8: [], 16: []}
    overlaps: dict[int, list[float]] = {8: [], 16: []}
    for group in captured_groups(probe, [*readings, *(Reading.branch(sites[path]) for path in others)]):
        for reading, captured in group:
            exact = explicit_eigenvalues(captured)
            norm = exact.abs().amax(1)
            halves = [CurvatureMatrices(reading.map, half) for half in split_in_halves(captured) or ()]
            for iterations in errors:
                found = cross_fit((halves[0], halves[1]), iterations=iterations, seed=0).whole.values
                errors[iterations].append((found - exact[:, 0]).abs() / norm.clamp(min=1e-30))
                overlaps[iterations].append(top_decile_overlap(found, exact[:, 0]))
    yield row("neurons, of a vision transformer trained on MNIST digits", f"{sum(len(e) for e in errors[8]):,}")
    for iterations, found in errors.items():
        every = torch.cat(found)
        median, late = float(every.median()), float(every.quantile(0.95))
        yield row(
            f"{iterations} iterations, median of error over norm",
            f"{median:.1e}",
            "at most 1e-5" if iterations == 8 else "",
        )
        yield row(
            f"{iterations} iterations, 95th percentile of error over norm",
            f"{late:.1e}",
            "at most 1e-3" if iterations == 16 else "",
        )
        overlap = sum(overlaps[iterations]) / len(overlaps[iterations])
        yield row(f"{iterations} iterations, top-decile overlap, mean over sites", f"{overlap:.4f}", "at least 0.99")
    yield from settled_rows(graph_module, x[:samples], y[:samples])


def explicit_eigenvalues(captured: list) -> torch.Tensor:
    """Return all eigenvalues of every neuron's matrix, ``(neurons, features)``, formed in float64."""
    x = torch.cat([call.input.flatten(0, -2) for call in captured]).double()
    c = torch.cat([call.coefficients.flatten(0, -2) for call in captured]).double()
    samples = sum(call.samples for call in captured)
    return torch.stack([torch.linalg.eigvalsh((x * c[:, i : i + 1]).T @ x / samples) for i in range(c.shape[1])])


def top_decile_overlap(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the share of the tenth of neurons with the least eigenvalues that is the same."""
    count = max(1, len(exact) // 10)
    first, second = (set(values.argsort()[:count].tolist()) for values in (found, exact))
    return len(first & second) / count


def settled_rows(graph_module: torch.fx.GraphModule, x: torch.Tensor, y: torch.Tensor) -> Iterator[Row]:
    """Yield how the ranking that early stopping accepts compares with that of 16 iterations."""
    full = analyze(graph_module, F.cross_entropy, [(x, y)], sites=["blocks.*"], iterations=16, settled=None)
    early = analyze(graph_module, F.cross_entropy, [(x, y)], sites=["blocks.*"], iterations=16, settled=0.999)
    made = sum(site.iterations or 0 for site in early.values()) / len(early)
    least = min(spearman(full[path].values, early[path].values) or 0.0 for path in full)
    yield row("stopped where the ranking has settled (0.999): iterations, mean over sites", f"{made:.1f} of 16")
    yield row("rank correlation with 16 iterations, least over sites", f"{least:.4f}")
