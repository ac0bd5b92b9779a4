"""Which passes there are: those of fxgrow, those registered in this process, and those of installed packages.

Passes are named here and imported when they are asked for, so that listing the names costs nothing and one broken
plugin does not stand in the way of the others.
"""

import importlib
import inspect
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from fxgrow.errors import PassError, did_you_mean
from fxgrow.passes.base import Pass
from fxgrow.passes.options import Option, options_of

#: an installed package adds a pass with ``[project.entry-points."fxgrow.passes"]`` and ``name = "module:Class"``
GROUP = "fxgrow.passes"

_BUILT_IN = {
    "add-residual-edge": "fxgrow.passes.add_residual_edge:AddResidualEdge",
    "deepen": "fxgrow.passes.deepen:Deepen",
    "eliminate-dead-code": "fxgrow.passes.eliminate_dead_code:EliminateDeadCode",
    "fold-pairs": "fxgrow.passes.fold_pairs:FoldPairs",
    "functionalize-inplace": "fxgrow.passes.functionalize_inplace:FunctionalizeInplace",
    "insert-block": "fxgrow.passes.insert_block:InsertBlock",
    "insert-half-steps": "fxgrow.passes.insert_half_steps:InsertHalfSteps",
    "insert-pseudo-layers": "fxgrow.passes.insert_pseudo_layers:InsertPseudoLayers",
    "merge-branches": "fxgrow.passes.merge_branches:MergeBranches",
    "slim": "fxgrow.passes.slim:Slim",
    "spread-residual-edges": "fxgrow.passes.spread_residual_edges:SpreadResidualEdges",
    "undo": "fxgrow.passes.undo:Undo",
    "widen": "fxgrow.passes.widen:Widen",
}

_REGISTERED: dict[str, type[Pass]] = {}


@dataclass(frozen=True)
class PassDescription:
    """A pass as the listing shows it."""

    name: str
    summary: str  #: the first line of its docstring
    options: tuple[Option, ...]


def register_pass(pass_class: type[Pass]) -> type[Pass]:
    """Make a pass known in this process, as for a script or a test; usable as a class decorator.

    Raises:
        PassError: If another pass has that name.
    """
    name = pass_class.name
    if name in _BUILT_IN or _REGISTERED.setdefault(name, pass_class) is not pass_class:
        raise PassError("another pass has this name", where=f"pass {name!r}", fix="choose another")
    return pass_class


def available_passes() -> tuple[str, ...]:
    """Return the names of all passes, built in, registered and installed, sorted; none of them is imported."""
    return tuple(sorted({*_BUILT_IN, *_REGISTERED, *_installed()}))


def find_pass(name: str) -> type[Pass]:
    """Import the pass of that name.

    Raises:
        PassError: If there is none, if several packages bring it, or if it cannot be imported.
    """
    if name in _BUILT_IN:
        return _resolve(name, _BUILT_IN[name])
    if name in _REGISTERED:
        return _REGISTERED[name]
    entries = _installed().get(name, [])
    if not entries:
        hint = did_you_mean(name, available_passes())
        raise PassError(
            "there is no pass of this name",
            where=f"pass {name!r}",
            fix=f"{hint}`fxgrow run --list` shows those there are; if a package brings it, install that",
        )
    if len({entry.value for entry in entries}) > 1:
        owners = ", ".join(sorted(entry.value for entry in entries))
        raise PassError(f"several packages bring it: {owners}", where=f"pass {name!r}", fix="uninstall all but one")
    return _resolve(name, entries[0].value)


def describe_pass(name: str) -> PassDescription:
    """Return the first line and the options of the pass of that name.

    Raises:
        PassError: As `find_pass`.
    """
    found = find_pass(name)
    summary = (inspect.getdoc(found) or "").partition("\n")[0]
    return PassDescription(name, summary, tuple(options_of(found).values()))


def _installed() -> dict[str, list[EntryPoint]]:
    installed: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in entry_points(group=GROUP):
        if entry.name not in _BUILT_IN:  # the meaning of a file must not depend on what else is installed
            installed[entry.name].append(entry)
    return installed


def _resolve(name: str, location: str) -> type[Pass]:
    module, _, attribute = location.partition(":")
    try:
        found: type[Pass] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        fix = "mend or uninstall the package that brings it"
        raise PassError(f"{location} cannot be imported: {error}", where=f"pass {name!r}", fix=fix) from error
    if not (isinstance(found, type) and issubclass(found, Pass)):
        what = f"{location} is not a subclass of fxgrow.passes.Pass"
        raise PassError(what, where=f"pass {name!r}", fix="let the entry point name one")
    if found.name != name:
        raise PassError(f"{location} calls itself {found.name!r}", where=f"pass {name!r}", fix="use one name for both")
    return found
