"""The page's section on scores: what each would have gained where places of growth have run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from study import jsonl, kind_scores, places, placing
from study.analysis import Difference, holm, mean_and_error, oracle, paired
from study.groups import GROUPS, Group
from study.lines import line
from study.records import Records
from study.tables import probability, signed, table

_BLOCKS = 4
_SECOND_ORDER = ("eigen", "eigen per FLOP")  #: what the others are held against, too
_INTRODUCTIONS = {
    "blocks": """## Does a score know the blocks?

Four blocks, three blocks' worth of half-steps: one block of four is left out, or one alone gets all of it. A score
looks at the network right before, and its choice is looked up among the runs above, so that all choose among the very
same ones. Scores of hidden units are added up over a block where they are positive. *Trial*: the losses of all four
choices after so many steps. *Rank correlation*: of a score with the true final losses of the four choices, mean over
seeds. *Random* is the mean of the four; *p* is of no difference, corrected in each column (Holm). *seconds*: processor
time of the score, for one network. Command, behind that of the even growth above:
`python benchmarks/study places --records runs/again`.""",
    "kinds": """## Does a score know the kind of branch?

Four blocks, half-steps of all of their attentions, or of as many parameters of their MLPs. Everything else is as above;
scores of fxgrow are added up over the outputs of the maps of a kind where they are positive. At equal FLOPs a score
chooses by what it says of a FLOP. Command, behind that of both kinds above:
`python benchmarks/study places --records runs/again`.""",
}


@dataclass(frozen=True)
class Choice:
    """One decision that a score takes: ways to grow, one for each block or kind of branch, and what came out of them.

    Attributes:
        losses: final losses, (places, seeds).
        even: final losses with half-steps of the same share of every block, (seeds,).
        leaves_out: the way of a block is to leave it out, so that it should be the block of the least score.
    """

    title: str
    losses: np.ndarray
    even: np.ndarray
    leaves_out: bool

    def chosen(self, score: np.ndarray) -> np.ndarray:
        """Return the place that a score chooses on each seed, (seeds,); the score is (places, seeds)."""
        return score.argmin(0) if self.leaves_out else score.argmax(0)

    def correlations(self, score: np.ndarray) -> list[float]:
        """Return Spearman's rank correlation with the truth on each seed."""
        wanted = self.losses if self.leaves_out else -self.losses
        return [float(stats.spearmanr(own, true)[0]) for own, true in zip(score.T, wanted.T, strict=True)]


def section(records: Records) -> str:
    """Return a table for each task and decision that has run, or nothing."""
    parts = []
    for kind, introduction in _INTRODUCTIONS.items():
        found = []
        for group in (group for group in GROUPS if group.places == kind):
            scores, seconds = (_per_flop if group.per == "FLOP" else _scores)(records, group)
            whole = {name: found for name, found in scores.items() if found.shape[1] == group.fresh}
            found += [_table(choice, whole, seconds) for choice in _choices(records, group) if whole]
            found += [_unfinished(group, scores)] if len(whole) < len(scores) else []
        parts += [introduction, *found] if found else []
    return "\n\n".join(parts)


def _scores(records: Records, group: Group) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return each score, (places, seeds), and its seconds."""
    rows: dict[str, dict[int, jsonl.Row]] = {}
    for row in sorted(places.read(records, group), key=lambda row: int(row["seed"])):
        if row["seed"] in group.seeds:
            rows.setdefault(row["score"], {})[row["seed"]] = row
    values = {name: np.array([row[group.places] for row in own.values()], float).T for name, own in rows.items()}
    return values, {name: float(np.mean([row["seconds"] for row in own.values()])) for name, own in rows.items()}


def _per_flop(records: Records, group: Group) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return what fxgrow's scores say of a FLOP of each kind, (kinds, seeds), and their seconds."""
    (whole,) = (each for each in places.scored_groups() if (each.task, each.places) == (group.task, group.places))
    scores, seconds = _scores(records, whole)
    flops = np.array([placing.added_flops(group.task, arm) for arm in group.arms])[:, None]
    names = (*kind_scores.SUMMED, "gain")
    return {f"{name} per FLOP": scores[name] / flops for name in names if name in scores}, {
        f"{name} per FLOP": seconds[name] for name in names if name in scores
    }


def _unfinished(group: Group, scores: Mapping[str, np.ndarray]) -> str:
    """Say which scores are not in the tables."""
    counts = {name: found.shape[1] for name, found in scores.items() if found.shape[1] != group.fresh}
    said = ", ".join(f"{name} ({count})" for name, count in counts.items())
    return f"{group.task.title}: not on all {group.fresh} seeds, and so not shown: {said}."


def _choices(records: Records, group: Group) -> Iterator[Choice]:
    """Yield the decisions of a group whose runs are complete."""
    base, *lines = [line(records, group.task, arm, group.fresh, group.rate_of, group.after) for arm in group.members]
    parts = {"one block is left out": lines[:_BLOCKS], "one block gets all": lines[_BLOCKS:]}
    if group.places == "kinds":
        parts = {"one kind gets all": lines}
    for said, part in parts.items():
        known = [one.numbers("loss") for one in part if one]
        if base and known and len(known) == len(part):
            at = " at equal FLOPs" if group.per == "FLOP" else ""
            title = f"{group.task.title}, {group.fresh} fresh seeds: {said}{at}"
            yield Choice(title, np.array(known), np.array(base.numbers("loss")), said == "one block is left out")


def _table(choice: Choice, scores: Mapping[str, np.ndarray], seconds: Mapping[str, float]) -> str:
    at_random = choice.losses.mean(0)
    grown = {name: choice.losses[choice.chosen(score), range(len(at_random))] for name, score in scores.items()}
    against_random = {name: paired(losses, at_random) for name, losses in grown.items()}
    (eigen,) = [losses for name, losses in grown.items() if name in _SECOND_ORDER] or [None]
    against_eigen = {name: paired(eigen, losses) for name, losses in grown.items() if eigen is not None}
    p, own = _corrected(against_random), _corrected(against_eigen)
    best = oracle(choice.losses)
    lines = [["*the best for the other half of the seeds*", "", *_said(best, choice.even, at_random), *[""] * 4]]
    for name, difference in sorted(against_random.items(), key=lambda each: each[1].mean):
        mean, error = mean_and_error(choice.correlations(scores[name]))
        numbers = [*_said(grown[name], choice.even, at_random), _p(difference, p[name])]
        duel = against_eigen.get(name)
        compared = [signed(duel), _p(duel, own[name])] if duel and duel.error else ["", ""]
        spent = f"{seconds[name]:.2f}" if seconds[name] else ""
        lines.append([name, f"{mean:+.2f} ± {error:.2f}", *numbers, *compared, spent])
    lines.append(["*random*", "", *_said(at_random, choice.even, at_random), *[""] * 4])
    head = ["chosen by", "rank correlation", "loss, against even", "against random", "p"]
    return f"### {choice.title}\n\n{table([*head, 'eigen against it', 'p', 'seconds'], lines)}"


def _corrected(differences: Mapping[str, Difference]) -> dict[str, float]:
    return dict(zip(differences, holm([each.p for each in differences.values()]), strict=True))


def _said(losses: Sequence[float], even: Sequence[float], at_random: Sequence[float]) -> list[str]:
    against = paired(losses, at_random)
    return [signed(paired(losses, even)), signed(against) if against.error else ""]


def _p(difference: Difference, corrected: float) -> str:
    return probability(corrected) if difference.error else ""
