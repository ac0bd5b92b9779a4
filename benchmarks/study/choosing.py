"""What a command is about: the experiments whose tasks and arms were asked for, and what these need."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from study.plan import Experiment


class NoMatchError(ValueError):
    """A pattern matches nothing."""


def chosen(experiments: Iterable[Experiment], tasks: Sequence[str], arms: Sequence[str]) -> list[Experiment]:
    """Return the experiments of some tasks and arms, given by names or patterns.

    Raises:
        NoMatchError: one of the patterns matches nothing.
    """
    found = list(experiments)
    names = matching("--tasks", tasks, [each.task.name for each in found])
    found = [each for each in found if each.task.name in names]
    names = matching("--arms", arms, [each.arm.name for each in found])
    return [each for each in found if each.arm.name in names]


def matching(option: str, patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return the names that match some pattern.

    Raises:
        NoMatchError: one of the patterns matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = get_close_matches(pattern, set(names), cutoff=0.4)
            said = f", near to it are {', '.join(map(repr, near))}" if near else ""
            raise NoMatchError(f"{option}: {pattern!r} matches nothing{said}")
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def with_rates(asked: Sequence[Experiment]) -> list[Experiment]:
    """Return experiments, and before them those that tune their rates and were not asked for."""
    known = {(each.task.name, each.arm.name) for each in asked if not each.confirms}
    needed = {(each.task.name, each.tunes.arm.name): each.tunes for each in asked if each.confirms}
    return [*(each for key, each in needed.items() if key not in known), *asked]
