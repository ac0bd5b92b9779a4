"""Splitting scores of attention heads and gated neurons, whose matrices come from a local surrogate of the loss."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fxgrow.curvature.analysis import DEFAULT_ITERATIONS
from fxgrow.curvature.batches import Batch
from fxgrow.curvature.capture import LossFunction, forward_pass
from fxgrow.curvature.cross_fit import least_eigenvalues
from fxgrow.curvature.lanczos import start_vectors
from fxgrow.curvature.probe import without_autograd
from fxgrow.curvature.probe_data import PAIRS_IN_WORDS, CountSamples, read_batches
from fxgrow.curvature.reading import for_solving
from fxgrow.curvature.sample_dimension import find_sample_dimensions
from fxgrow.curvature.scores import Scores, SiteScores
from fxgrow.curvature.units import UnitGroup, find_units, rows_of_units
from fxgrow.errors import AnalysisError
from fxgrow.execution.ranks import Group, Ranks
from fxgrow.graph.selection import matches
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.primitives.unwrapping import unwrap
from fxgrow.record.digest import digest


@checks_arguments(AnalysisError, batches=PAIRS_IN_WORDS)
def analyze_units(
    traced: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    units: Iterable[str] = ("*",),
    iterations: int = DEFAULT_ITERATIONS,
    seed: int = 0,
    max_samples: int | None = None,
    samples: CountSamples | None = None,
    group: Group = None,
) -> Scores:
    """Return the splitting score of every attention head and gated neuron, by the module path of its layer.

    A unit u with parameters theta_u (a head's rows of q, k and v; a gated neuron's rows of both maps) and output o_u is
    split like a neuron: into theta_u +- eps v, with half of the outgoing weights each. With delta_u the loss's gradient
    at o_u, held fixed, the change of the loss is ``eps^2 / 2 v^T S_u v + O(eps^4)`` for

        S_u = Hessian by theta_u of sum <delta_u, o_u(theta_u)>

    The surrogate's Hessian is exactly block-diagonal over units, so one Hessian-vector product of it serves them all.
    It is taken on captured inputs, by double backward with attention on its math kernels; the model itself runs once
    for each batch. Eigenvectors are ``(units, parameters of one unit)``, the sites' rows one after the other.

    Args:
        traced: The traced model.
        loss_fn: Maps output and target to the mean loss.
        batches: Pairs ``(inputs, target)``, as for `fxgrow.analyze`; all their captured values are kept.
        units: Module paths or shell patterns of the layers.
        iterations: Lanczos iterations.
        seed: Seed of the first Lanczos vector.
        max_samples: Stop reading batches when there are this many samples.
        samples: Says how many samples a batch holds, as for `fxgrow.analyze`.
        group: The process group over which scores are reduced, as for `fxgrow.analyze`.

    Raises:
        AnalysisError: If a pattern matches no layer with such units, or the batches or the loss do not fit.
    """
    graph_module = unwrap(traced)
    groups = _select(find_units(graph_module), list(units))
    ranks = Ranks(group)
    targets = loss_fn is not None
    read, sizes = read_batches(
        graph_module, batches, seed=seed, max_samples=max_samples, samples=samples, targets=targets, ranks=ranks
    )
    scores: dict[str, SiteScores] = {}
    refusals: dict[str, str] = {}
    for path, layer in groups.items():
        seen = [_capture(graph_module, loss_fn, batch, layer, seed + batch.index) for batch in read]
        with without_autograd(graph_module):
            rows = rows_of_units(layer, graph_module, seen[0].values)
            if isinstance(rows, str):
                refusals[path] = rows
                continue
            surrogate = _Surrogate(graph_module, layer, rows)
            start = start_vectors(len(rows[0]), surrogate.size, seed, surrogate.weights[0])
            shares = [
                (share, share.samples) for share in (seen if len(sizes) > 1 else _halves(graph_module, layer, seen[0]))
            ]
            scores[path] = least_eigenvalues(surrogate, shares, start, iterations, matrix="splitting", ranks=ranks)
    counted = sum(sizes.values())
    return Scores(scores, score="splitting", digest=digest(graph_module), samples=counted, refusals=refusals)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What one batch showed of a group: the values that it is computed from, and the gradient at its output."""

    batch: Batch
    samples: int  #: that the gradient is of
    values: dict[fx.Node, Any]
    gradient: Tensor  #: of the mean loss over those samples


def _capture(graph_module: fx.GraphModule, loss_fn: LossFunction, batch: Batch, group: UnitGroup, seed: int) -> _Seen:
    nodes = [*group.inputs, *group.boundary]
    with forward_pass(graph_module, loss_fn, batch, values=nodes, differentiable=[group.output], seed=seed) as run:
        gradient = for_solving(run.gradients([group.output])[group.output])
        return _Seen(batch, batch.samples, {node: _detached(run.values[node]) for node in nodes}, gradient)


def _halves(graph_module: fx.GraphModule, group: UnitGroup, seen: _Seen) -> list[_Seen]:
    """Return the even samples' part of a batch and the odd ones'; the whole where it does not show its samples.

    The loss was that of the whole batch. Its gradient at the output is set to zero at the other half's samples.
    """
    dimension = find_sample_dimensions(graph_module, [group.output], seen.batch)[group.output]
    owner = None if dimension is None else dimension.sample_of(seen.gradient.shape[dimension.dim], seen.samples)
    if dimension is None or owner is None:
        return [seen]
    gradient = seen.gradient.movedim(dimension.dim, -1)
    masks = [(owner % 2 == half).to(gradient) * (seen.samples / len(range(half, seen.samples, 2))) for half in (0, 1)]
    return [
        replace(seen, samples=len(range(half, seen.samples, 2)), gradient=(gradient * mask).movedim(-1, dimension.dim))
        for half, mask in enumerate(masks)
    ]


def _detached(value: Any) -> Any:
    return for_solving(value) if isinstance(value, Tensor) and value.is_floating_point() else value


class _Surrogate:
    """``sum <delta, o(theta)>`` on captured inputs, by its Hessian's products with one vector for each unit."""

    def __init__(self, graph_module: fx.GraphModule, group: UnitGroup, rows: Sequence[Tensor]) -> None:
        self.group, self.rows = group, rows
        self.function = group.function(graph_module)
        self.weights = [for_solving(site.rows(graph_module)) for site in group.sites]
        self.biases = [
            None if site.bias is None else for_solving(graph_module.get_parameter(site.bias)) for site in group.sites
        ]
        self.sizes = [owned.shape[1] * site.features for owned, site in zip(rows, group.sites, strict=True)]

    @property
    def size(self) -> int:
        """The number of parameters of one unit."""
        return sum(self.sizes)

    def __call__(self, seen: _Seen, vectors: Tensor) -> Tensor:
        """Return S_u v_u for all units, for the mean loss over a share of the data."""
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            weights = [weight.detach().requires_grad_() for weight in self.weights]
            outputs = [
                site.map(seen.values[x], weight, bias)
                for site, x, weight, bias in zip(self.group.sites, self.group.inputs, weights, self.biases, strict=True)
            ]
            boundary = [seen.values[node] for node in self.group.boundary]
            surrogate = (seen.gradient * self.function(*outputs, *boundary)).sum()
            gradients = torch.autograd.grad(surrogate, weights, create_graph=True)
        products = torch.autograd.grad(gradients, weights, self._as_rows(vectors), materialize_grads=True)
        return torch.cat([p[owned].flatten(1) for p, owned in zip(products, self.rows, strict=True)], dim=1)

    def _as_rows(self, vectors: Tensor) -> list[Tensor]:
        found = []
        for part, owned, weight in zip(torch.split(vectors, self.sizes, dim=1), self.rows, self.weights, strict=True):
            rows = torch.zeros_like(weight)
            rows[owned.flatten()] = part.reshape(-1, weight.shape[1])
            found.append(rows)
        return found


def _select(groups: dict[str, UnitGroup], patterns: Sequence[str]) -> dict[str, UnitGroup]:
    chosen = {path: g for path, g in groups.items() if matches(path, patterns)}
    if not chosen:
        known = ", ".join(list(groups)[:5]) or "none in this model"
        what = "no layer with attention heads or gated neurons has this module path"
        raise AnalysisError(what, where=", ".join(patterns), fix=f"such layers are: {known}")
    return chosen
