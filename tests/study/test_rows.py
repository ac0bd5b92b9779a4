"""A row of the page is repeated by its command alone, and several processes may work on one folder of records."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small import MLP, task
from study import __main__ as command
from study import repeats, running_all
from study.arms import Arm, Event, depth
from study.choosing import chosen, with_rates
from study.locks import held
from study.plan import Experiment, experiments
from study.records import Records
from study.rewrites import HalfSteps
from study.running import Progress
from study.running_all import jobs, run_all
from study.schedules import Cycle
from study.snapshots import Snapshots
from study.state import initial

MEMBERS = ((0.01, 0), (0.01, 1))


def _arm(name: str = "arm") -> Arm:
    return Arm(name, depth(task(MLP).block, 1), (Cycle(6),), (Event(3, HalfSteps()),))


def _study() -> list[Experiment]:
    """Return an arm, and one that takes its rate."""
    small, rate_of = task(MLP), _arm("rate")
    other = Arm("arm", rate_of.start, (Cycle(4),))
    return [Experiment(small, rate_of, (0, 1)), Experiment(small, other, (7, 8), (0, 1), rate_of=rate_of)]


def test_a_row_with_the_rate_of_another_arm_brings_that_arm_s_tuning(tmp_path: Path) -> None:
    asked = chosen(_study(), ["*"], ["arm"])
    run_all(with_rates(asked), Records(tmp_path), Snapshots(tmp_path / "snapshots"), gated=False)
    assert {(key.arm, key.seed) for key in Records(tmp_path).rows} >= {("arm", 7), ("arm", 8), ("rate", 0), ("rate", 1)}


def test_no_row_of_the_study_waits_for_what_its_command_does_not_run(tmp_path: Path) -> None:
    for each in experiments():
        assert next(jobs(with_rates([each]), Records(tmp_path), gated=False)).members


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tasks", "txt"], "--tasks: 'txt' matches nothing, near to it are 'text'"),
        (["--tasks", "text", "--arms", "scratch 8", "scrach 4"], "--arms: 'scrach 4' matches nothing"),
        (["--arms", "qqq"], "--arms: 'qqq' matches nothing\n"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_of_one_line(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["run", *options, "--records", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_broken_record_is_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.jsonl").write_text("{\n{}\n")
    assert command.main(["status", "--records", str(tmp_path)]) == 2
    assert "text.jsonl, line 1" in capsys.readouterr().err


def test_a_run_says_what_is_left_and_that_nothing_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records, snapshots = Records(tmp_path), Snapshots(tmp_path / "snapshots")
    run_all(_study(), records, snapshots, gated=False)
    assert "4 runs in 1 job are left, of small; some wait for their rates\n" in capsys.readouterr().out
    run_all(_study(), records, snapshots, gated=False)
    assert f"nothing left to run: {len(records.rows)} runs are recorded in {tmp_path}\n" in capsys.readouterr().out


def test_a_repeat_is_held_against_what_the_repository_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = Records(tmp_path / "published")
    monkeypatch.setattr(repeats, "Records", lambda: published)
    records = Records(tmp_path / "again")
    for losses, own in (((1.0, 1.2), records), ((1.3, 1.3), published)):
        rows = [{"rate": rate, "seed": s, "loss": losses[s] + rate} for rate in (0.01, 0.02, 0.005) for s in (0, 1)]
        own.add(task(MLP), _arm("rate"), rows)
    assert repeats.summary(_study(), records) == (
        "small: rate, 2 tuning seeds: loss 1.1050 +- 0.1000 at rate 0.005; "
        "recorded: loss 1.3050 +- 0.0000 at rate 0.005, difference -0.2000"
    )
    assert repeats.summary(_study(), Records(tmp_path)) == ""


def test_a_repeat_does_not_find_the_states_of_what_it_repeats(tmp_path: Path) -> None:
    published, again = Snapshots.of(Records()), Snapshots.of(Records(tmp_path))
    assert published.folder == Path("runs/study/snapshots")
    assert again.folder.is_relative_to(tmp_path)


def test_what_another_process_runs_is_left_out_and_taken_over_when_it_has_died(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, records = _study(), Records(tmp_path)
    (job,) = jobs(study, records, gated=False)
    lock = tmp_path / "locks" / job.name
    program = f"""
import sys, time
sys.path.insert(0, {str(Path(command.__file__).parents[1])!r})
from pathlib import Path
from study.locks import held
with held(Path({str(lock)!r})) as other:
    print(other, flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert other.stdout
    assert other.stdout.readline() == "None\n"
    run_all(study, records, Snapshots(tmp_path / "snapshots"), gated=False)
    said = capsys.readouterr().out
    assert f"is being run by process {other.pid};" in said
    assert "4 runs in 1 job are left, all being run by other processes" in said
    assert not records.rows
    other.kill()
    other.communicate()
    assert lock.exists()
    run_all(study, records, Snapshots(tmp_path / "snapshots"), gated=False)
    assert records.rows
    assert not lock.exists()


def test_what_another_process_has_recorded_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, study = Records(tmp_path), _study()
    run_all(study, Records(tmp_path), Snapshots(tmp_path / "snapshots"), gated=False)
    monkeypatch.setattr(running_all, "run", None)  # to call it is an error
    assert not mine.rows
    run_all(study, mine, Snapshots(tmp_path / "snapshots"), gated=False)
    assert mine.rows == Records(tmp_path).rows


def test_a_lock_is_gone_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with held(tmp_path / "lock") as other:
            assert other is None
            assert (tmp_path / "lock").read_text() == str(os.getpid())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())


def _save(folder: Path) -> None:
    small, snapshots = task(MLP), Snapshots(folder, limit=1)
    state = initial(MLP, _arm().start, (0, 1))
    for step in (1, 2, 3) * 10:
        snapshots.save(Progress(state, step), small, _arm(), MEMBERS)
        snapshots.latest(small, _arm(), MEMBERS)


def test_two_processes_save_the_same_states(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_save, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
