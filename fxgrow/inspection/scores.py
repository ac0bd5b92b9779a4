"""The scores of a site in a few numbers."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fxgrow.record.annotations import ScoreAnnotation
from fxgrow.record.evidence import significant


@dataclass(frozen=True)
class ScoreSummary:
    """The scores of one site, or of the same site in several blocks that are alike."""

    score: str
    matrix: str
    sign: int  #: -1 where a small score asks for growth, as an eigenvalue does
    stale: bool  #: whether they were measured on another graph, as before the last growth
    #: one entry for each block: its neurons' scores
    values: tuple[tuple[float, ...], ...]
    #: one entry for each block: how many of its neurons are significant
    significant: tuple[int, ...]

    @property
    def extreme(self) -> float:
        """The score that asks for growth most strongly: the least eigenvalue."""
        return (min if self.sign < 0 else max)(value for block in self.values for value in block)

    @property
    def median(self) -> float:
        """The median over all neurons."""
        return statistics.median(value for block in self.values for value in block)

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of significant neurons, block by block."""
        return tuple(count / len(block) for count, block in zip(self.significant, self.values, strict=True))

    @property
    def share(self) -> float:
        """The share of significant neurons over all blocks."""
        return sum(self.significant) / sum(map(len, self.values))


def summarise(scores: ScoreAnnotation | None, digest: str) -> ScoreSummary | None:
    """Summarise what an analysis wrote on a node of the graph with this digest; None without scores."""
    if not scores or not scores["eigenvalues"]:
        return None
    return ScoreSummary(
        score=scores["score"],
        matrix=scores["matrix"],
        sign=scores.get("sign", -1),
        stale=scores["digest"] != digest,
        values=(tuple(scores["eigenvalues"]),),
        significant=(sum(significant(scores)),),
    )


def blend(summaries: Sequence[ScoreSummary]) -> ScoreSummary | None:
    """Blend the scores of different sites, as of one pseudo-layer's, into those of one; None where there are none."""
    pooled = pool(summaries)
    if pooled is None:
        return None
    values = tuple(value for block in pooled.values for value in block)
    return replace(pooled, values=(values,), significant=(sum(pooled.significant),))


def pool(summaries: Sequence[ScoreSummary | None]) -> ScoreSummary | None:
    """Pool the scores of sites that are alike, in their order; None if one has none."""
    found = [summary for summary in summaries if summary is not None]
    if not found or len(found) < len(summaries):
        return None
    return ScoreSummary(
        score=found[0].score,
        matrix=found[0].matrix,
        sign=found[0].sign,
        stale=any(summary.stale for summary in found),
        values=tuple(block for summary in found for block in summary.values),
        significant=tuple(count for summary in found for count in summary.significant),
    )
