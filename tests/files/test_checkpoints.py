import os
import resource

import numpy as np
import pytest
import torch

from fxgrow.errors import FileError
from fxgrow.files.checkpoints import Checkpointer, read_checkpoint


def state(step):
    rows = np.random.default_rng(step).standard_normal((64, 64))
    return {"weights": {"w": torch.from_numpy(rows)}, "steps": [step, 1.5, "x", None], "frozen": torch.arange(3)}


def equal(one, other):
    return torch.equal(one["weights"]["w"], other["weights"]["w"]) and one["steps"] == other["steps"]


def test_the_newest_are_kept_and_the_newest_comes_back(tmp_path):
    checkpointer = Checkpointer(tmp_path / "run", keep=2)
    for step in (5, 10, 9, 100):
        checkpointer.save(state(step), step=step)
    assert [path.name for path in checkpointer.paths()] == ["step_10.ckpt", "step_100.ckpt"]
    newest = Checkpointer(tmp_path / "run").load()
    assert newest.step == 100
    assert equal(newest.state, state(100))


def test_an_empty_folder_has_none(tmp_path):
    assert Checkpointer(tmp_path).load() is None
    assert Checkpointer(tmp_path).best() is None


@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 2)])
def test_the_best_is_kept_beside_the_newest(tmp_path, mode, best):
    checkpointer = Checkpointer(tmp_path, keep=1, mode=mode)
    for step, metric in enumerate([0.5, 0.9, 0.1, 0.7]):
        checkpointer.save(state(step), step=step, metric=metric)
    assert sorted(os.listdir(tmp_path)) == ["best.ckpt", "step_3.ckpt"]
    assert checkpointer.best().step == best
    assert equal(checkpointer.best().state, state(best))


@pytest.mark.parametrize("damage", ["truncated", "a flipped bit", "another file"])
def test_a_damaged_one_is_passed_over_for_the_one_before_saying_so(tmp_path, damage):
    checkpointer = Checkpointer(tmp_path)
    for step in (1, 2):
        path = checkpointer.save(state(step), step=step)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "another file":
        content = bytearray(b"hello")
    else:
        content[content.index(state(2)["weights"]["w"].numpy().tobytes()) + 9] ^= 4
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"passed over a checkpoint: .*step_2\.ckpt"):
        assert checkpointer.load().step == 1


def test_a_state_dict_is_no_checkpoint(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "x.ckpt")
    with pytest.raises(FileError, match="it is no checkpoint of fxgrow"):
        read_checkpoint(tmp_path / "x.ckpt")


def test_a_full_disk_keeps_the_last_good_one(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(state(1), step=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(FileError, match="the disk is full, nothing was written"):
            checkpointer.save(state(2), step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["step_1.ckpt"]
    assert equal(checkpointer.load().state, state(1))


@pytest.mark.parametrize("options", [{"keep": 0}, {"mode": "best"}])
def test_options_that_do_not_fit(tmp_path, options):
    with pytest.raises(FileError, match="do not fit"):
        Checkpointer(tmp_path, **options)
