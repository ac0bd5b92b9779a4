"""The saddle question goes on where it was stopped."""

from itertools import count
from pathlib import Path

import pytest
from small import MLP, task
from study import jsonl, saddles


def test_what_is_recorded_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StopError(Exception):
        pass

    calls = count()

    def measure(*_: object) -> dict[str, object]:
        if (call := next(calls)) == 5:
            raise StopError
        return {"call": call}

    settings = {"TASKS": {"small": task(MLP)}, "TASK": "small", "SEEDS": (0, 1), "BEFORE": (1, 2), "AFTER": (0, 1)}
    for name, value in {**settings, "_measure": measure}.items():
        monkeypatch.setattr(saddles, name, value)
    path = tmp_path / "saddles" / "small.jsonl"
    with pytest.raises(StopError):
        saddles.run(path)
    assert len(jsonl.read(path)) == 5
    for _ in range(2):
        saddles.run(path)
    rows = jsonl.read(path)
    assert [row["call"] for row in rows] == [0, 1, 2, 3, 4, *range(6, 17)]
    assert len({(row["arm"], row["step"], row["seed"]) for row in rows}) == len(rows) == 16
    assert all(row["machine"] for row in rows)
