"""`analyze`: measure a score at every neuron of a traced model, and write it on the nodes."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fxgrow.curvature.capture import LossFunction
from fxgrow.curvature.probe import Probe
from fxgrow.curvature.probe_data import PAIRS_IN_WORDS, CountSamples, read_batches
from fxgrow.curvature.registry import Score, find_score
from fxgrow.curvature.scores import Scores, SiteScores
from fxgrow.curvature.selection import select_sites
from fxgrow.errors import AnalysisError
from fxgrow.execution.place import Place
from fxgrow.execution.ranks import Group, Ranks
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.primitives.unwrapping import unwrap
from fxgrow.record.annotations import NO_GRADIENT
from fxgrow.record.digest import digest

DEFAULT_ITERATIONS = 16
#: the ranking is taken as settled here; how near it then is to the exact one stands in docs/curvature.md
DEFAULT_SETTLED = 0.99
DEFAULT_MAX_MEMORY = 2 << 30


@checks_arguments(AnalysisError, batches=PAIRS_IN_WORDS)
def analyze(
    traced: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    score: str | Score = "eigen",
    sites: Iterable[str] | None = None,
    iterations: int = DEFAULT_ITERATIONS,
    settled: float | None = DEFAULT_SETTLED,
    seed: int = 0,
    max_memory: int = DEFAULT_MAX_MEMORY,
    max_samples: int | None = None,
    samples: CountSamples | None = None,
    place: Place | None = None,
    group: Group = None,
) -> Scores:
    """Score every neuron of a traced model, and write the scores on the nodes that call its sites.

    The model runs as it is, in the mode it is in and under the caller's autocast, and is left as it was: its mode, its
    ``.grad`` and buffers, and the global random state. Same seed and same data give the same scores.

    Args:
        traced: A GraphModule, as `fxgrow.trace` or ``torch.fx.symbolic_trace`` makes it; it may be wrapped in
            DistributedDataParallel or by ``torch.compile``.
        loss_fn: Maps the model's output and the target to the loss over a whole batch, usually a mean
            (`docs/curvature.md` says what each score takes it for). None for a model that computes its loss itself and
            returns it: as ``loss``, or as the only scalar of its output.
        batches: Pairs ``(inputs, target)``; inputs are a tensor, a tuple of inputs or a dict by keyword. With
            ``loss_fn=None`` inputs alone, the labels among them. Take at least 256 samples; batches of different sizes
            count by their samples.
        score: The name of a score (`fxgrow.curvature.score_names`), or a `Score` with options of its own.
        sites: Module paths or shell patterns (``"blocks.*.mlp.*"``) of the sites to score; all of them if None.
        iterations: Lanczos iterations of an eigen-score, at most.
        settled: Stop a site's iterations when the ranking of its neurons has settled: when its rank correlation with
            the ranking of an earlier iteration is at least this. Held-out values then come from vectors that were
            found on the positions which carry most. `SiteScores.iterations` says when that was, and
            `SiteScores.residuals` how far off an eigenvalue may be. None makes all iterations.
        seed: Seed of whatever the score draws, and of dropout while the model runs.
        max_memory: Bytes that captured tensors and solvers may take, beside a training step's own memory.
        max_samples: Stop reading batches when there are this many samples, on all ranks together; None reads all.
        samples: Says how many samples a batch holds, given the batch as `batches` yields it. Needed only where neither
            the target nor the model shows it (`fxgrow.curvature.probe_data.SampleCounter`).
        place: Where `traced` lies in a larger model, as `fxgrow.execution.place.Place(model, "backbone")`: the batches
            are then the model's inputs, and the loss is its loss. `fxgrow.grow_inside` does all of it by one call.
        group: The process group over which scores are reduced: each rank gives its own share of the probe data, and
            gets the scores of all of it. torch's default group, if there is one, where left out; False measures on this
            process alone. Batches count in the order of the ranks.

    Returns:
        The scores by the site's module path; sites without one are in `Scores.refusals`, with the reason, and so is
            what stays whole.

    Raises:
        AnalysisError: If the batches, the loss or an option do not fit.
        TraceError: If the model is not traced.
        RankError: If the ranks have different models or scores, or one of them is gone.

    Example:
        >>> import torch
        >>> model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)))
        >>> data = [(torch.randn(256, 8), torch.randint(4, (256,)))]
        >>> scores = analyze(model, nn.functional.cross_entropy, data)
        >>> scores["0"].matrix, scores["2"].matrix, tuple(scores["0"].eigenvalues.shape)
        ('splitting', 'branch', (16,))
    """
    graph_module = unwrap(traced)
    chosen = find_score(score)() if isinstance(score, str) else score
    for name, value in (("iterations", iterations), ("max_memory", max_memory), ("max_samples", max_samples)):
        if value is not None and value < 1:
            raise AnalysisError("it is not positive", where=f"{name} {value}", fix="give 1 or more")
    if settled is not None and not 0 < settled <= 1:
        raise AnalysisError("it is no rank correlation", where=f"settled {settled}", fix="give a number up to 1")
    if any(hasattr(parameter, "device_mesh") for parameter in graph_module.parameters()):  # a DTensor
        fix = "let a Grower shard it, by wrap=fxgrow.training.Shard(): it measures whole weights"
        raise AnalysisError("its parameters are sharded over the ranks", where="the traced model", fix=fix)
    ranks = Ranks(group)
    ranks.agree("the digest of the model, with what is asked", (digest(graph_module), chosen.name, iterations, seed))
    selection = select_sites(graph_module, sites)
    read, sizes = read_batches(
        graph_module,
        batches,
        seed=seed,
        max_samples=max_samples,
        samples=samples,
        targets=loss_fn is not None,
        place=place,
        ranks=ranks,
    )
    growable = selection.growable
    probe = Probe(graph_module, loss_fn, read, growable, iterations, seed, settled, max_memory, place, ranks, sizes)
    measured = chosen.measure(probe)
    found, dark = only_reached(measured.sites, probe.reached_rows())
    scores = Scores(
        sites=found,
        score=chosen.name,
        digest=digest(graph_module),
        samples=probe.samples,
        refusals={**selection.refusals, **measured.refusals, **dark},
    )
    ranks.agree("the digest of the scores", _digest_of(found))
    scores.annotate(graph_module)
    return scores


def _digest_of(sites: Mapping[str, SiteScores]) -> str:
    hasher = hashlib.sha256()
    for path, scores in sites.items():
        hasher.update(path.encode())
        for values in (scores.priority, scores.values, scores.eigenvectors):
            hasher.update(b"" if values is None else values.contiguous().numpy().tobytes())
    return hasher.hexdigest()[:16]


def only_reached(
    sites: Mapping[str, SiteScores], reached: Mapping[str, Tensor]
) -> tuple[dict[str, SiteScores], dict[str, str]]:
    """Mark the neurons that no gradient reaches, and give the reason where a site has no other."""
    dark = {path: NO_GRADIENT for path, rows in reached.items() if not bool(rows.any())}
    marked = {
        path: scores if bool(reached[path].all()) else replace(scores, reached=reached[path])
        for path, scores in sites.items()
    }
    return marked, dark
