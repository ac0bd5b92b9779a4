"""Choosing sites by module path: the one meaning of `include`, `exclude` and `sites`."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TypeVar

from fxgrow.errors import FxgrowError, did_you_mean

T = TypeVar("T")


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Say whether a module path is, or fits, one of the shell patterns; ``*`` also stands for dots.

    Example:
        >>> matches("blocks.0.mlp.fc1", ["blocks.*.fc1"]), matches("head", ["blocks.*"])
        (True, False)
    """
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def select(
    by_path: Mapping[str, T],
    patterns: Iterable[str],
    error: type[FxgrowError],
    refused: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, T]:
    """Return what lies at the module paths that fit one of the patterns, in its order.

    Args:
        by_path: What there is to choose from.
        patterns: Module paths or shell patterns.
        error: The kind of error.
        refused: Why what lies at other paths cannot be chosen.

    Raises:
        FxgrowError: Of the kind `error`, if a pattern fits none.
    """
    patterns = tuple(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in by_path):
            for path, reason in refused.items():
                if fnmatchcase(path, pattern):
                    raise error(f"it cannot grow: {reason}", where=path, fix="leave it out")
            fix = f"{did_you_mean(pattern, by_path)}`fxgrow inspect` lists the sites"
            raise error("no site has this module path", where=pattern, fix=fix)
    return {path: found for path, found in by_path.items() if matches(path, patterns)}
