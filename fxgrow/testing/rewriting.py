"""Random rewrites of a graph and random growth, as hypothesis strategies. They shrink towards one row and one pass."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import nn

from fxgrow.curvature.scores import Scores, SiteScores
from fxgrow.errors import PassError, PlanError, VerificationError
from fxgrow.execution.shapes import propagate_shapes
from fxgrow.graph.sites import find_sites
from fxgrow.operators import available_operators
from fxgrow.passes.add_residual_edge import AddResidualEdge
from fxgrow.passes.base import Pass
from fxgrow.passes.eliminate_dead_code import EliminateDeadCode
from fxgrow.passes.fold_pairs import FoldPairs
from fxgrow.passes.functionalize_inplace import FunctionalizeInplace
from fxgrow.passes.insert_block import InsertBlock
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.passes.merge_branches import MergeBranches
from fxgrow.passes.undo import Undo
from fxgrow.passes.widen import Widen
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of
from fxgrow.testing.draws import Draws
from fxgrow.testing.networks import FunctionalDropout, RandomNetwork
from fxgrow.tracing import trace
from fxgrow.verification import verify

_DROPOUT = (nn.modules.dropout._DropoutNd, FunctionalDropout)
_PLAIN = (EliminateDeadCode(), FunctionalizeInplace(), FoldPairs(), MergeBranches(), Undo())


def insertions(graph_module: fx.GraphModule, *, max_sites: int = 3) -> SearchStrategy[Pass]:
    """Return a strategy for insertions of pseudo-layers at random rows of random sites, with a random operator.

    Sites that refuse are left out; a graph in which nothing may grow has nothing to draw.
    """
    sites = [site for site in find_sites(graph_module).values() if site.refusal is None]

    @st.composite
    def draw_insertion(draw: DrawFn) -> InsertPseudoLayers:
        chosen = draw(st.lists(st.sampled_from(sites), min_size=1, max_size=max_sites, unique_by=lambda s: s.path))
        rows = {
            site.path: tuple(sorted(draw(st.sets(st.integers(0, site.neurons - 1), min_size=1)))) for site in chosen
        }
        operator = draw(st.sampled_from(sorted(available_operators())))
        return InsertPseudoLayers(rows, operator, draw(st.integers(0, 99)))

    return draw_insertion() if sites else st.nothing()


def edges(graph_module: fx.GraphModule) -> SearchStrategy[Pass]:
    """Return a strategy for residual edges between two modules' values of one shape; the pass will refuse some."""
    alike: dict[str, set[str]] = defaultdict(set)
    for node in graph_module.graph.find_nodes(op="call_module"):
        alike[str(node.meta.get("tensor_meta"))].add(str(node.target))
    groups = [sorted(paths) for paths in alike.values() if len(paths) > 1]
    if not groups:
        return st.nothing()
    return st.sampled_from(groups).flatmap(st.permutations).map(lambda paths: AddResidualEdge(paths[0], paths[1]))


def blocks(graph_module: fx.GraphModule) -> SearchStrategy[Pass]:
    """Return a strategy for copies of blocks without dropout: the copy's own would shift the random stream."""
    if graph_module.graph.find_nodes(op="call_function", target=F.dropout):
        return st.nothing()
    paths = [
        path
        for path, module in graph_module.named_modules()
        if path and not any(isinstance(part, _DROPOUT) for part in module.modules())
    ]
    return st.sampled_from(paths).map(InsertBlock) if paths else st.nothing()


def widenings(graph_module: fx.GraphModule) -> SearchStrategy[Pass]:
    """Return a strategy for wider sites; the pass will refuse those whose rows are no hidden units."""
    paths = sorted(path for path, site in find_sites(graph_module).items() if site.refusal is None)
    details = {"by": st.integers(1, 4), "how": st.sampled_from(("pairs", "split")), "heads": st.booleans()}
    return st.builds(Widen, st.sampled_from(paths), **details) if paths else st.nothing()


def rewrites(graph_module: fx.GraphModule) -> SearchStrategy[Pass]:
    """Return a strategy for a random pass that preserves the function; a quarter of them insert pseudo-layers."""
    insertion, widening, plain = insertions(graph_module), widenings(graph_module), st.sampled_from(_PLAIN)
    return st.one_of(insertion, insertion, plain, plain, edges(graph_module), blocks(graph_module), widening, widening)


@dataclass(frozen=True, eq=False)
class Rewritten:
    """What a random sequence of passes made of a network."""

    traced: fx.GraphModule
    result: fx.GraphModule
    passes: tuple[Pass, ...]  #: those that were not refused, in order
    refusals: tuple[str, ...]  #: what the others said
    largest_relative: float  #: largest difference that any verification found


def rewrite_at_random(
    draw: Callable[[SearchStrategy[Any]], Any], model: RandomNetwork, example_inputs: Any, *, max_passes: int = 8
) -> Rewritten:
    """Trace a network, send it through random passes, each drawn for the graph so far, and verify each.

    Before each pass every parameter is moved a little, as training would: a pseudo-layer that is still zero would hide
    the faults of what is done to it. What `undo` leaves is compared with the network itself, or with what the last edit
    made of it that no `undo` takes back. Where nothing but modules depends on the mode, plain symbolic tracing is drawn
    too: it leaves operations in place.

    Args:
        draw: The ``draw`` of a composite strategy, or of ``data`` from ``hypothesis.strategies.data()``.
        model: The network; its parameters are moved too, since they are shared.
        example_inputs: Inputs for it.
        max_passes: How many passes are tried at most.

    Raises:
        VerificationError: If a pass changes the function.
    """
    draws = Draws(model.recipe.seed, stream=2)
    traced = current = _trace(draw, model, example_inputs)
    base: nn.Module = model
    differences = [verify(base, traced, example_inputs).largest_relative]
    passes: list[Pass] = []
    refusals: list[str] = []
    for _ in range(draw(st.integers(1, max_passes))):
        _move_parameters(current, draws)
        applied, versions = draw(rewrites(current)), _versions(current)
        try:
            outcome = applied(current)
        except (PassError, PlanError) as refusal:
            refusals.append(str(refusal))
            continue
        finally:
            if _versions(current) != versions:
                what = "it writes to parameters of the graph that went in"
                raise VerificationError(what, where=str(applied), fix="mend the pass")
        result = outcome.graph_module
        reference, gradients = (base, True) if applied.name == "undo" else (current, applied.keeps_parameters)
        differences.append(verify(reference, result, example_inputs, gradients=gradients).largest_relative)
        passes.append(applied)
        if outcome.modified and applied.inverse(result, len(record_of(result).edits) - 1) is None:
            base = result
        current = result
    return Rewritten(traced, current, tuple(passes), tuple(refusals), max(differences))


def _trace(draw: Callable[[SearchStrategy[Any]], Any], model: RandomNetwork, example_inputs: Any) -> fx.GraphModule:
    if any(step.kind in ("functional-dropout", "attention-dropout") for step in model.recipe.steps) or not draw(
        st.booleans()
    ):
        return trace(model, example_inputs, check=False)
    graph_module = fx.symbolic_trace(model)
    propagate_shapes(graph_module, example_inputs)
    return graph_module


def _versions(graph_module: fx.GraphModule) -> dict[str, int]:
    return {name: parameter._version for name, parameter in graph_module.named_parameters()}


def _move_parameters(graph_module: fx.GraphModule, draws: Draws) -> None:
    with torch.no_grad():
        for parameter in graph_module.parameters():
            parameter.add_(0.1 * draws.normal(*parameter.shape))


def growths() -> SearchStrategy[dict[str, Any]]:
    """Return a strategy for options of `fxgrow.grow`: budget, operator, allocation and seed."""
    return st.fixed_dictionaries(
        {
            "budget": st.one_of(st.floats(0.05, 1.0), st.integers(20, 400)),
            "operator": st.sampled_from(sorted(available_operators())),
            "allocation": st.sampled_from(("even", "proportional", "greedy")),
            "seed": st.integers(0, 99),
        }
    )


def random_scores(graph_module: fx.GraphModule, seed: int = 0) -> Scores:
    """Return scores that nothing was measured for: random numbers for every site that may grow.

    They let growth be tested without a loss and without data.
    """
    draws = Draws(seed)
    found = {}
    for path, site in find_sites(graph_module).items():
        if site.refusal is None:
            held_out, vectors = draws.normal(site.neurons), draws.normal(site.neurons, site.features)
            found[path] = SiteScores(
                values=held_out - 0.1,
                held_out=held_out,
                stderr=torch.full_like(held_out, 0.1),
                matrix="branch",
                eigenvectors=vectors / vectors.norm(dim=1, keepdim=True),
            )
    return Scores(found, score="random", digest=digest(graph_module), samples=0)
