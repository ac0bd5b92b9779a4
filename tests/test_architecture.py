"""The imports are those that docs/architecture.md draws."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _allowed() -> dict[str, set[str]]:
    """Read the table of rooms from the page, in its order."""
    section = (ROOT / "docs/architecture.md").read_text().partition("## The rooms\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {
        row[0].strip(" `"): {name for name in row[2].replace(" ", "").split(",") if name} if len(row) > 2 else set()
        for row in rows
    }


def _rooms() -> Iterator[tuple[str, Path]]:
    for path in [*(ROOT / "fxgrow").rglob("*.py"), *(ROOT / "passes").rglob("*.py")]:
        parts = path.relative_to(ROOT).parts
        if parts[0] == "passes":
            yield "passes", path
        elif parts[1] not in ("__init__.py", "__main__.py"):
            yield parts[1].removesuffix(".py"), path


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
        yield from (module.split(".")[1] for module in modules if module.startswith("fxgrow."))


def test_every_room_stands_in_the_table_of_the_page() -> None:
    assert {room for room, _ in _rooms()} == set(_allowed())


def test_a_room_imports_only_rooms_above_it() -> None:
    order = list(_allowed())
    for room, allowed in _allowed().items():
        assert allowed <= set(order[: order.index(room)]), f"{room} imports a room below it"


@pytest.mark.parametrize("room", list(_allowed()))
def test_a_room_imports_what_the_table_says(room: str) -> None:
    imported = {name for owner, path in _rooms() if owner == room for name in _imports(path)} - {room}
    assert imported == _allowed()[room]
