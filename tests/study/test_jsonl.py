"""Records survive what stops a process: a line that was cut off is none, and the next one does not run into it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from study import jsonl, places, report_saddles
from study.groups import GROUPS
from study.planted import study as planted
from study.planted.teacher import VARIANTS
from study.records import Records

TORN = '{"seed": 2, "lo'


def test_a_last_line_that_was_cut_off_is_no_row_and_is_replaced_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    jsonl.append(path, [{"seed": 0}, {"seed": 1}])
    with open(path, "a") as file:
        file.write(TORN)
    assert jsonl.read(path) == [{"seed": 0}, {"seed": 1}]
    jsonl.append(path, [{"seed": 2}])
    assert path.read_text() == '{"seed": 0}\n{"seed": 1}\n{"seed": 2}\n'


def test_a_last_row_that_only_lacks_the_end_of_its_line_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"seed": 0}')
    assert jsonl.read(path) == [{"seed": 0}]
    jsonl.append(path, [{"seed": 1}])
    assert path.read_text() == '{"seed": 0}\n{"seed": 1}\n'


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"seed": 0}}\n{TORN}\n{{"seed": 1}}\n')
    with pytest.raises(jsonl.BrokenLineError, match=r"rows\.jsonl, line 2"):
        jsonl.read(path)


def test_several_writers_append_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda batch: jsonl.append(path, [{"batch": batch, "row": row} for row in range(20)]), range(40)))
    found = [(row["batch"], row["row"]) for row in jsonl.read(path)]
    assert len(found) == 800
    assert all(found[i : i + 20] == [(found[i][0], row) for row in range(20)] for i in range(0, 800, 20))


def test_every_file_of_the_study_is_read_like_that(tmp_path: Path) -> None:
    group = next(group for group in GROUPS if group.places == "blocks")
    names = ("text.jsonl", f"blocks/{group.task.name}.jsonl", "planted/planted.jsonl", "saddles/mnist1d-mlp.jsonl")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(TORN)
    assert not Records(tmp_path).rows
    assert not places.read(Records(tmp_path), group)
    assert not planted.read(tmp_path / "planted" / "planted.jsonl", VARIANTS[0])
    assert not report_saddles.section(tmp_path)
