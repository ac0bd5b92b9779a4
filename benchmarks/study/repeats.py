"""What came out of the arms that were asked for, and beside a repeat what the repository has recorded."""

from collections.abc import Sequence

from study.analysis import mean_and_error
from study.lines import Line, line
from study.plan import Experiment
from study.records import Records
from study.tasks import fresh_seeds


def summary(experiments: Sequence[Experiment], records: Records) -> str:
    """Return a line for each experiment that is finished."""
    published = None if records.published else Records()
    lines = []
    for each in experiments:
        own, theirs = _line(each, records), published and _line(each, published)
        if own:
            compared = f"; recorded: {_loss(theirs)}, difference {_mean(own) - _mean(theirs):+.4f}" if theirs else ""
            kind = "fresh" if each.confirms else "tuning"
            seeds = f"{len(each.seeds)} {kind} seed{'s' * (len(each.seeds) > 1)}"
            lines.append(f"{each.task.name}: {each.arm.name}, {seeds}: {_loss(own)}{compared}")
    return "\n".join(dict.fromkeys(lines))


def _line(each: Experiment, records: Records) -> Line | None:
    fresh, after = (len(each.seeds), each.seeds[0] - fresh_seeds(1)[0]) if each.confirms else (0, 0)
    return line(records, each.task, each.arm, fresh, each.rate_of, after)


def _mean(one: Line) -> float:
    return one.mean("loss")


def _loss(one: Line) -> str:
    mean, error = mean_and_error(one.numbers("loss"))
    return f"loss {mean:.4f}" + (f" +- {error:.4f}" if len(one.rows) > 1 else "") + f" at rate {one.rate:g}"
