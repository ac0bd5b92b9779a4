"""Every refusal in the code says where, what and what to do next, in one form."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import fxgrow
import fxgrow.passes
from fxgrow import errors

#: what has a name of its own; the name of a node means nothing to who wrote the model
NAMED = {
    "applied",
    "chosen",
    "error",
    "found",
    "missing",
    "model",
    "operator",
    "option",
    "origin",
    "pseudo_layer",
    "self",
    "settings",
    "written",
}


@dataclass(frozen=True)
class Refusal:
    """One call of an error's class, with the texts that its arguments may have."""

    place: str
    texts: dict[str, list[ast.expr]]
    given: frozenset[str]


def error_names() -> set[str]:
    """Return the classes that are told where; one that finds it out by itself tells its base class."""
    found, pending = set[str](), [errors.FxgrowError]
    while pending:
        kind = pending.pop()
        found |= {kind.__name__} if "where" in inspect.signature(kind).parameters else set()
        pending += kind.__subclasses__()
    return found


def refusals() -> Iterator[Refusal]:
    names = error_names()
    for package in (fxgrow, fxgrow.passes):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            tree = ast.parse(path.read_text())
            for scope in ast.walk(tree):
                if isinstance(scope, ast.FunctionDef):
                    yield from _in_function(scope, tree, f"{root.name}/{path.relative_to(root)}", names)


def _in_function(scope: ast.FunctionDef, tree: ast.Module, file: str, names: set[str]) -> Iterator[Refusal]:
    for node in ast.walk(scope):
        if isinstance(node, ast.Call) and _raises(node, names):
            given = {"what": node.args[0]} | {str(keyword.arg): keyword.value for keyword in node.keywords}
            texts = {name: list(_texts(value, scope, tree)) for name, value in given.items()}
            yield Refusal(f"{file}:{node.lineno}", texts, frozenset(given))


def _raises(call: ast.Call, names: set[str]) -> bool:
    if isinstance(call.func, ast.Name):
        return call.func.id in names
    within = ast.unparse(call.func) == "super().__init__"
    return within and "where" in {keyword.arg for keyword in call.keywords}


def _texts(value: ast.expr, scope: ast.FunctionDef, tree: ast.Module) -> Iterator[ast.expr]:
    """Yield the strings that an argument may be: itself, both sides of a condition, or what its name was assigned."""
    if isinstance(value, ast.Constant | ast.JoinedStr):
        yield value
    elif isinstance(value, ast.IfExp):
        yield from _texts(value.body, scope, tree)
        yield from _texts(value.orelse, scope, tree)
    elif isinstance(value, ast.Name):
        for statement in (*ast.walk(scope), *tree.body):
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            if any(isinstance(target, ast.Name) and target.id == value.id for target in targets):
                yield from _texts(statement.value, scope, tree)


def _spelled(text: ast.expr) -> str:
    if isinstance(text, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in text.values)
    return text.value


ALL = list(refusals())


def test_there_are_refusals_in_every_room_that_can_refuse() -> None:
    assert len(ALL) > 200
    assert {refusal.place.partition("/")[0] for refusal in ALL} == {"fxgrow", "passes"}


@pytest.mark.parametrize("part", ["where", "fix"])
def test_every_refusal_says_where_and_what_to_do_next(part: str) -> None:
    silent = [
        refusal.place
        for refusal in ALL
        if part not in refusal.given
        or any(isinstance(text, ast.Constant) and not text.value for text in refusal.texts[part])
    ]
    assert silent == []


@pytest.mark.parametrize("part", ["what", "fix"])
def test_it_is_a_clause_on_one_line_without_a_full_stop(part: str) -> None:
    for refusal in ALL:
        for text in map(_spelled, refusal.texts.get(part, ())):
            assert not text.endswith((".", "!", " ")), f"{refusal.place}: {text!r} ends in a full stop"
            assert "\n" not in text, f"{refusal.place}: {text!r} has two lines"
            first = text.partition(" ")[0]
            assert not first[:1].isupper() or any(map(str.isupper, first[1:])), (
                f"{refusal.place}: {text!r} begins with a capital, and not with the name of a class"
            )


def test_a_next_step_is_a_clause_and_not_a_word() -> None:
    for refusal in ALL:
        for text in map(_spelled, refusal.texts.get("fix", ())):
            assert len(text.split()) > 1 or "…" in text, f"{refusal.place}: {text!r} is no step"


def test_no_refusal_calls_a_value_by_the_name_of_its_node() -> None:
    for refusal in ALL:
        for text in (text for texts in refusal.texts.values() for text in texts):
            for part in ast.walk(text):
                if isinstance(part, ast.Attribute) and part.attr == "name":
                    owner = part.value
                    while isinstance(owner, ast.Subscript):
                        owner = owner.value
                    known = owner.attr if isinstance(owner, ast.Attribute) else ast.unparse(owner)
                    assert known in NAMED, f"{refusal.place}: {known}.name; use fxgrow.record.location.name_of"
