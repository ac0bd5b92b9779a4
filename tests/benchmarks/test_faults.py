"""A run that is killed in a growth event, or while it writes a checkpoint, goes on as if nothing had been."""

from pathlib import Path

import faults


def test_killed_runs_have_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    expected, trials = faults.trials(2, 0, tmp_path)
    assert [trial.killed_in for trial in trials] == [("growing", "saving"), ("saving",)]
    assert [trial.checksum for trial in trials] == [expected] * 2
    assert not [path for path in tmp_path.rglob("*") if path.suffix not in ("", ".ckpt")]
