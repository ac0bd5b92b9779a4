"""Which operators there are."""

from importlib.metadata import entry_points

from fxgrow.errors import PlanError, did_you_mean
from fxgrow.operators.base import PseudoLayer

_OPERATORS: dict[str, type[PseudoLayer]] = {}


def register_operator(operator: type[PseudoLayer]) -> type[PseudoLayer]:
    """Make a kind of pseudo-layer known under its `name`; usable as a class decorator.

    Raises:
        PlanError: If another class has that name.
    """
    known = _OPERATORS.setdefault(operator.name, operator)
    if known is not operator:
        raise PlanError(
            f"this name belongs to {known.__module__}.{known.__qualname__}",
            where=f"operator {operator.name!r}",
            fix="give the new class another name",
        )
    return operator


def available_operators() -> dict[str, type[PseudoLayer]]:
    """Return the operators by name, those of installed packages included."""
    for entry in entry_points(group="fxgrow.operators"):
        if entry.name not in _OPERATORS:
            register_operator(entry.load())
    return dict(_OPERATORS)


def known_operator(name: str) -> type[PseudoLayer] | None:
    """Return the operator of that name, if there is one."""
    if name in _OPERATORS:  # each insertion asks, and reading the entry points costs as much as one
        return _OPERATORS[name]
    return available_operators().get(name)


def find_operator(name: str) -> type[PseudoLayer]:
    """Return the operator of that name.

    Raises:
        PlanError: If there is none.
    """
    operator = known_operator(name)
    if operator is None:
        operators = available_operators()
        fix = f"{did_you_mean(name, operators)}choose one of {', '.join(operators)}"
        raise PlanError("no such operator", where=f"operator {name!r}", fix=fix)
    return operator
