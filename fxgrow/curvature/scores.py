"""Scores as data: one number for each neuron of a site, its held-out value and its error bar."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch.fx as fx
from torch import Tensor

from fxgrow.errors import PlanError
from fxgrow.graph.digest import digest

#: A score is significant where its held-out value lies this many standard errors from zero.
SIGNIFICANCE = 2.0


@dataclass(frozen=True, eq=False)
class SiteScores:
    """The scores of the neurons of one site. All vectors are ``(neurons,)``, on the CPU, in float64.

    For an eigen-score, `values` are the least eigenvalues of S over all probe data, for the mean loss; `held_out` are
    Rayleigh quotients of vectors found on one half of the data and evaluated on the other, averaged over both swaps:
    an unbiased, conservative estimate of the curvature that is really there.
    """

    values: Tensor
    held_out: Tensor
    stderr: Tensor  #: standard error of `held_out` over batches
    matrix: str = ""  #: ``"branch"`` or ``"splitting"`` for an eigen-score, else empty
    eigenvectors: Tensor | None = None  #: ``(neurons, features)``
    #: +1 where a larger value asks for growth, -1 where a smaller one does, as with eigenvalues
    sign: int = -1
    #: Spearman rank correlation between the scores of the two halves of the data
    reliability: float | None = None

    @property
    def eigenvalues(self) -> Tensor:
        """The least eigenvalues, ``(neurons,)``; another name of `values`."""
        return self.values

    @property
    def priority(self) -> Tensor:
        """How strongly each neuron asks for growth: the held-out score, signed so that more is more."""
        return self.sign * self.held_out

    @property
    def significant(self) -> Tensor:
        """Whether each neuron's held-out score asks for growth by more than its error bar, ``(neurons,)`` of bool."""
        return self.priority > SIGNIFICANCE * self.stderr


@dataclass(frozen=True, eq=False)
class Scores(Mapping[str, SiteScores]):
    """Scores by the site's module path, with what they were measured on.

    Args:
        sites: The scores of every site that has any.
        score: The name of the score, as in ``"eigen"``.
        digest: Digest of the graph on which they were measured.
        images: Number of samples of probe data.
        refusals: Sites without a score, and why: "not splittable" is not a score of zero.
    """

    sites: Mapping[str, SiteScores]
    score: str
    digest: str
    images: int
    refusals: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, path: str) -> SiteScores:
        return self.sites[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

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
