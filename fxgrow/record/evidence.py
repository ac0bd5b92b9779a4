"""What an analysis found at one site, in a few numbers: the growth history keeps it for every event."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

from fxgrow.record.annotations import ScoreAnnotation

#: A score is significant where its held-out value lies this many standard errors from zero.
SIGNIFICANCE = 2.0


@dataclass(frozen=True)
class SiteEvidence:
    """The scores of one site in short, over its neurons that get a gradient."""

    site: str
    neurons: int  #: how many that are
    extreme: float  #: the score that asks for growth most strongly: of eigenvalues the least
    held_out: float | None  #: mean held-out score; None where there was none
    stderr: float | None  #: standard error of that mean, neurons taken as independent
    significant: int  #: how many neurons ask for growth by more than their error bars
    sign: int = -1  #: +1 where a larger score asks for growth, -1 where a smaller one does

    @property
    def asks(self) -> bool:
        """Whether the mean over the neurons asks for growth by more than its error bar."""
        if self.held_out is None or self.stderr is None:
            return False
        return self.sign * self.held_out > SIGNIFICANCE * self.stderr


def significant(scores: ScoreAnnotation) -> list[bool]:
    """Return which neurons ask for growth by more than their error bars."""
    held_out, stderr, reached = scores["held_out"], scores["stderr"], scores.get("reached")
    if held_out is None or stderr is None:
        return [False] * len(scores["eigenvalues"])
    sign = scores.get("sign", -1)
    asks = [sign * value > SIGNIFICANCE * error for value, error in zip(held_out, stderr, strict=True)]
    return asks if reached is None else [a and b for a, b in zip(asks, reached, strict=True)]


def site_evidence(found: Mapping[str, ScoreAnnotation]) -> tuple[SiteEvidence, ...]:
    """Return what analyses say of each site, by its path; a site that no gradient reaches is left out."""
    return tuple(_evidence(site, scores) for site, scores in found.items() if any(_reached(scores)))


def _evidence(site: str, scores: ScoreAnnotation) -> SiteEvidence:
    reached = _reached(scores)
    strongest = min if scores.get("sign", -1) < 0 else max
    errors = _of(scores["stderr"], reached)
    return SiteEvidence(
        site=site,
        neurons=sum(reached),
        extreme=strongest(compress(scores["eigenvalues"], reached)),
        held_out=_mean(_of(scores["held_out"], reached)),
        stderr=None if errors is None else sum(error**2 for error in errors) ** 0.5 / len(errors),
        significant=sum(significant(scores)),
        sign=scores.get("sign", -1),
    )


def _reached(scores: ScoreAnnotation) -> Sequence[bool]:
    return scores.get("reached") or [True] * len(scores["eigenvalues"])


def _of(values: Sequence[float] | None, chosen: Sequence[bool]) -> list[float] | None:
    return None if values is None else list(compress(values, chosen))


def _mean(values: Sequence[float] | None) -> float | None:
    return None if values is None else sum(values) / len(values)
