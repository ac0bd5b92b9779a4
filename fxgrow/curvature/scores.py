"""Scores as data: one number for each neuron of a site, its held-out value and its error bar."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.errors import PlanError
from fxgrow.graph.sites import find_sites
from fxgrow.record.annotations import NO_GRADIENT, ScoreAnnotation, annotate, annotation
from fxgrow.record.digest import digest
from fxgrow.record.evidence import SIGNIFICANCE, SiteEvidence, site_evidence


@dataclass(frozen=True, eq=False)
class SiteScores:
    """The scores of the neurons of one site. All vectors are ``(neurons,)``, on the CPU, in float64.

    For an eigen-score, `values` are the least eigenvalues of S over all probe data, for the mean loss; `held_out` are
    Rayleigh quotients of vectors found on one half of the data and evaluated on the other, averaged over both swaps:
    an unbiased, conservative estimate of the curvature that is really there.
    """

    values: Tensor
    held_out: Tensor | None  #: None where the data cannot be halved: a single batch that cannot be told apart
    stderr: Tensor | None  #: standard error of `held_out` over samples, or over batches; None with it
    matrix: str = ""  #: ``"branch"`` or ``"splitting"`` for an eigen-score, else empty
    eigenvectors: Tensor | None = None  #: ``(neurons, features)``
    #: +1 where a larger value asks for growth, -1 where a smaller one does, as with eigenvalues
    sign: int = -1
    #: Spearman rank correlation between the scores of the two halves of the data
    reliability: float | None = None
    #: for an eigen-score ``|S v - value v|``: an eigenvalue lies within this of `values`
    residuals: Tensor | None = None
    #: for an eigen-score the number of Lanczos iterations that were made
    iterations: int | None = None
    #: which neurons get a gradient of the loss, ``(neurons,)`` of bool; the others never grow. None: all of them
    reached: Tensor | None = None

    @property
    def eigenvalues(self) -> Tensor:
        """The least eigenvalues, ``(neurons,)``; another name of `values`."""
        return self.values

    @property
    def priority(self) -> Tensor:
        """How strongly each neuron asks for growth: the held-out score if there is one, signed so that more is more.

        It is minus infinity where no gradient reaches the neuron: what is added there does not learn.
        """
        priority = self.sign * (self.values if self.held_out is None else self.held_out)
        return priority if self.reached is None else priority.masked_fill(~self.reached, -torch.inf)

    @property
    def eligible(self) -> int:
        """The number of neurons that may grow: those that get a gradient."""
        return len(self.values) if self.reached is None else int(self.reached.sum())

    @property
    def significant(self) -> Tensor:
        """Whether each neuron's held-out score asks for growth by more than its error bar, ``(neurons,)`` of bool."""
        if self.stderr is None:
            return torch.zeros(len(self.values), dtype=torch.bool)
        return self.priority > SIGNIFICANCE * self.stderr


@dataclass(frozen=True, eq=False)
class Scores(Mapping[str, SiteScores]):
    """Scores by the site's module path, with what they were measured on.

    Args:
        sites: The scores of every site that has any.
        score: The name of the score, as in ``"eigen"``.
        digest: Digest of the graph on which they were measured.
        samples: Number of samples of probe data.
        refusals: Sites that do not grow by these scores, and why: "not splittable" is not a score of zero, and where no
            gradient arrives a score of zero is no score.
    """

    sites: Mapping[str, SiteScores]
    score: str
    digest: str
    samples: int
    refusals: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, path: str) -> SiteScores:
        return self.sites[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    @property
    def images(self) -> int:
        """The former name of `samples`."""
        return self.samples

    def check(self, graph_module: fx.GraphModule) -> None:
        """Refuse scores that were measured on another graph.

        Raises:
            PlanError: If the graph's digest is not the one that the scores carry.
        """
        if digest(graph_module) != self.digest:
            raise PlanError(
                "these scores were measured on another graph (another model, or this one before it grew)",
                where="scores",
                fix="measure them again with fxgrow.analyze(traced, loss_fn, batches)",
            )

    def annotate(self, graph_module: fx.GraphModule) -> None:
        """Write the scores on the nodes that call the sites, in place of all that an earlier analysis wrote."""
        for node in graph_module.graph.nodes:
            if "scores" in annotation(node):
                annotate(node, scores=None)
        sites = find_sites(graph_module)
        for path, scores in self.items():
            for call in sites[path].calls:
                annotate(call, scores=self._annotation(scores))

    def evidence(self) -> tuple[SiteEvidence, ...]:
        """Return the scores of each site in a few numbers, as the growth history keeps them."""
        return site_evidence({path: self._annotation(scores) for path, scores in self.items()})

    @classmethod
    def from_annotations(cls, graph_module: fx.GraphModule) -> "Scores":
        """Rebuild scores, without eigenvectors and most refusals, from what an analysis wrote on the nodes.

        Raises:
            PlanError: If no node has a score, or they were measured on another graph.
        """
        found = {path: annotation(site.calls[0]).get("scores") for path, site in find_sites(graph_module).items()}
        entries = {path: entry for path, entry in found.items() if entry is not None}
        if not entries:
            fix = "measure them with fxgrow.analyze(traced, loss_fn, batches)"
            raise PlanError("its nodes carry no scores", where="the graph", fix=fix)
        first = next(iter(entries.values()))
        sites = {path: _site_scores(entry) for path, entry in entries.items()}
        dark = {path: NO_GRADIENT for path, scores in sites.items() if not scores.eligible}
        scores = cls(sites=sites, score=first["score"], digest=first["digest"], samples=first["samples"], refusals=dark)
        scores.check(graph_module)
        return scores

    def _annotation(self, scores: SiteScores) -> ScoreAnnotation:
        return ScoreAnnotation(
            digest=self.digest,
            score=self.score,
            sign=1 if scores.sign > 0 else -1,
            matrix=scores.matrix,
            eigenvalues=scores.values.tolist(),
            held_out=None if scores.held_out is None else scores.held_out.tolist(),
            stderr=None if scores.stderr is None else scores.stderr.tolist(),
            reliability=scores.reliability,
            samples=self.samples,
            reached=None if scores.reached is None else scores.reached.tolist(),
        )


def _site_scores(entry: ScoreAnnotation) -> SiteScores:
    reached = entry.get("reached")
    return SiteScores(
        values=torch.tensor(entry["eigenvalues"], dtype=torch.float64),
        held_out=_vector(entry["held_out"]),
        stderr=_vector(entry["stderr"]),
        matrix=entry["matrix"],
        sign=entry["sign"],
        reliability=entry["reliability"],
        reached=None if reached is None else torch.tensor(reached),
    )


def _vector(numbers: list[float] | None) -> Tensor | None:
    return None if numbers is None else torch.tensor(numbers, dtype=torch.float64)
