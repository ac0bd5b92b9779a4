"""What came out of the arms that were asked for, and beside a repeat what the repository has recorded."""

from collections.abc import Iterator, Sequence

from study.analysis import mean_and_error
from study.lines import Line, line
from study.plan import Experiment
from study.records import Records
from study.single import NotPublicError, measure, train
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


def alone(experiments: Sequence[Experiment], records: Records, count: int) -> Iterator[str]:
    """Train recorded networks again, each by itself through fxgrow's public API; yield a line for each.

    Of the arms that have run on fresh seeds, so many seeds each.
    """
    asked = {(each.task.name, each.arm.name): each for each in experiments if each.confirms and not each.is_gate}
    for each in asked.values():
        said = f"{each.task.name}: {each.arm.name}"
        for rate in each.rates(records):
            seeds = each.seeds[:count]
            for seed, row in zip(seeds, records.of(each.task, each.arm, rate, seeds) or [], strict=False):
                try:
                    loss, accuracy = measure(each.task, train(each.task, each.arm, rate, seed))
                except NotPublicError as error:
                    yield f"{said}: left out: {error}"
                    break
                batched, right = float(str(row["loss"])), float(str(row["accuracy"]))
                numbers = f"loss {loss:.4f}, recorded {batched:.4f}, difference {loss - batched:+.4f}"
                yield f"{said}, seed {seed}, rate {rate:g}: {numbers}; {accuracy:.2%}, recorded {right:.2%}"


def _line(each: Experiment, records: Records) -> Line | None:
    fresh, after = (len(each.seeds), each.seeds[0] - fresh_seeds(1)[0]) if each.confirms else (0, 0)
    return line(records, each.task, each.arm, fresh, each.rate_of, after)


def _mean(one: Line) -> float:
    return one.mean("loss")


def _loss(one: Line) -> str:
    mean, error = mean_and_error(one.numbers("loss"))
    return f"loss {mean:.4f}" + (f" +- {error:.4f}" if len(one.rows) > 1 else "") + f" at rate {one.rate:g}"
