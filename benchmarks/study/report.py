"""The page: every table made from the records, with its baseline, errors, and the command that repeats a row."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from study import report_costs, report_places, report_planted, report_saddles
from study.analysis import holm, mean_and_error, oracle, paired
from study.claims import PRICES
from study.groups import GATES, GROUPS, Group
from study.lines import Line, line, prices
from study.plan import binds, gate
from study.records import Records
from study.tables import probability, signed, table
from study.tasks import TASKS

_INTRODUCTION = """# Results of the study
Made by `python benchmarks/study report` from `benchmarks/study/records/`: one line there for each task, arm,
learning rate and seed. Do not edit; `study.md` says what is true, `running_the_study.md` what the tasks and arms are.

- Every arm is tuned over the same rates on the same seeds, and where an end of them is best for an arm that is to run
  on fresh seeds, beyond it, by halves or doubles, until it is not; * marks a rate behind which nothing has run. Tables
  on *fresh seeds* use no seed on which a rate was tuned or an arm was chosen. Tables on *tuning seeds* are exploration:
  no p-value stands there.
- *Cost* is parameters x steps, *FLOPs* counts all products, attention's too; *seconds* is processor time for one seed,
  compiling included. All three with the baseline = 1. Networks train in batches, and a seed takes less time in a bigger
  batch: seconds are compared between batches of as many networks only, and where there are none, none stand there.
- Differences are paired by seed, with their standard error and 95 % interval (Student's t); *p* is corrected for the
  number of comparisons in its table (Holm)."""


def page(records: Records, figures: Sequence[Path] = (), saddles: Sequence[Path] = ()) -> str:
    """Return ``docs/results.md``; the figures, of costs and of saddles, lie in a folder beside it."""
    parts = [_INTRODUCTION, _circumstances(records), "## Does capacity bind?", _gates(records)]
    parts += ["## At what cost is the baseline's loss reached?", report_costs.section(records)]
    parts += [f"![Loss against cost]({figure.parent.name}/{figure.name})" for figure in figures]
    for group in GROUPS:
        parts += _section(group, records)
    others = [
        report_places.section(records),
        report_planted.section(records.folder),
        report_saddles.section(records.folder, saddles),
    ]
    parts += [part for part in others if part]
    return "\n\n".join(parts) + "\n"


def _circumstances(records: Records) -> str:
    rows = records.rows.values()
    dates = sorted({str(row["date"]) for row in rows})
    said = {key: ", ".join(sorted({str(row[key]) for row in rows})) for key in ("machine", "torch", "python")}
    when = f"{dates[0]} to {dates[-1]}" if dates else "nothing yet"
    return (
        f"{len(rows)} runs, {when}, on {said['machine']} (one thread), torch {said['torch']}, Python {said['python']}."
    )


def _gates(records: Records) -> str:
    lines = []
    for name, (small, big) in GATES.items():
        task, found = TASKS[name], gate(records, TASKS[name])
        verdict = "not run" if found is None else "yes" if binds(found) else "no"
        both = [
            one and f"{one.mean('loss'):.4f}"
            for one in (line(records, task, arm, task.gate_seeds) for arm in (small, big))
        ]
        said = [f"{arm.name}: {loss}" if loss else arm.name for arm, loss in zip((small, big), both, strict=True)]
        verdict += " (none expected)" if task.negative else ""
        lines.append([task.title, str(task.gate_seeds), *said, signed(found), verdict])
    head = [
        "task",
        "seeds",
        "smaller, its loss",
        "bigger, its loss",
        "bigger - smaller",
        "better by more than 3 errors",
    ]
    return table(head, lines) + "\n\nBoth at their tuned rates, on fresh seeds."


def _section(group: Group, records: Records) -> Iterator[str]:
    found = [line(records, group.task, arm, group.fresh, group.rate_of, group.after) for arm in group.members]
    known = [one for one in found if one is not None]
    if found[0] is None or len(known) < 2:
        return
    seeds = (
        f"{group.fresh} fresh seeds"
        if group.fresh
        else f"{group.task.tuning} tuning seed" + "s" * (group.task.tuning > 1)
    )
    yield f"## {group.title}: {group.task.title}, {seeds}"
    yield _comparisons(known, bool(group.fresh))
    if group.places and len(known) > 2:
        yield _ceiling(known)
    command = f"python benchmarks/study run --records runs/again --tasks {group.task.name} --arms"
    commands = [f"{command} '{one.arm.name}'" for one in known]
    yield "<details><summary>Commands, row by row</summary>\n\n```\n" + "\n".join(commands) + "\n```\n\n</details>"


def _comparisons(known: Sequence[Line], fresh: bool) -> str:
    base = known[0]
    if fresh:
        lines = _tested(known)
    else:
        lines = [[*_numbers(one, base), f"{one.mean('loss') - base.mean('loss'):+.4f}"] for one in known]
    head = [
        "arm",
        "rate",
        "parameters",
        "cost",
        "FLOPs",
        "seconds",
        "test loss",
        "accuracy",
        "loss, against the first row",
    ]
    return table([*head, *(["95 % interval", "wins", "p"] if fresh else [])], lines)


def _ceiling(known: Sequence[Line]) -> str:
    """Return what could be won by knowing the best place, and what a place drawn at random would cost."""
    losses = np.array([one.numbers("loss") for one in known])
    ways = {
        "the best place, chosen on the other half of the seeds": oracle(losses[1:]),
        "a random place": losses[1:].mean(0),
    }
    lines = []
    for name, found in ways.items():
        difference = paired(found.tolist(), losses[0].tolist())
        lines.append([name, signed(difference), f"{difference.low:+.4f} to {difference.high:+.4f}"])
    return table(["growth at", "loss, against the first row above", "95 % interval"], lines)


def _tested(known: Sequence[Line]) -> list[list[str]]:
    """Return the rows with paired differences and their corrected p-values."""
    base = known[0]
    differences = [paired(one.numbers("loss"), base.numbers("loss")) for one in known[1:]]
    corrected = holm([difference.p for difference in differences])
    lines = [[*_numbers(base, base), "", "", "", ""]]
    for one, difference, p in zip(known[1:], differences, corrected, strict=True):
        interval, wins = f"{difference.low:+.4f} to {difference.high:+.4f}", f"{difference.wins:.0%}"
        lines.append([*_numbers(one, base), signed(difference), interval, wins, probability(p)])
    return lines


def _numbers(one: Line, base: Line) -> list[str]:
    paid = [prices([one, base], key) for key in PRICES]
    ratios = [f"{own[0] / own[1]:.2f}" if own else "" for own in paid]
    loss, error = mean_and_error(one.numbers("loss"))
    accuracy, spread = (100 * value for value in mean_and_error(one.numbers("accuracy")))
    measured = [f"{loss:.4f}{_plus_minus(error, 4)}", f"{accuracy:.2f}{_plus_minus(spread, 2)} %"]
    edge = " *" if one.rate in (min(one.rates), max(one.rates)) else ""
    return [one.arm.name, f"{one.rate:g}{edge}", f"{round(one.mean('parameters')):,}", *ratios, *measured]


def _plus_minus(error: float, digits: int) -> str:
    """Return the error of a mean, or nothing for a single seed."""
    return "" if np.isnan(error) else f" ± {error:.{digits}f}"
