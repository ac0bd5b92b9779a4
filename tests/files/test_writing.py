import os
import resource

import pytest
import torch
import torch.fx as fx
from torch import nn

import fxgrow
from fxgrow.errors import FileError
from fxgrow.files import check_output, read_table


@pytest.fixture
def model():
    return fx.symbolic_trace(nn.Sequential(nn.Linear(64, 64), nn.ReLU()))


@pytest.fixture
def full_disk():
    """Let no file grow beyond 4 KiB, which the system reports as it reports a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_exists_is_left_alone(model, tmp_path):
    path = tmp_path / "model.pt"
    path.write_text("precious")
    with pytest.raises(FileError, match=r"it exists already; .*--force"):
        fxgrow.save(model, path)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["model.pt"]


def test_overwrite_replaces_it(model, tmp_path):
    path = tmp_path / "model.pt"
    path.write_text("old")
    fxgrow.save(model, path, overwrite=True)
    assert read_table(path).parameters == 64 * 65
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_link_is_followed(model, tmp_path):
    (tmp_path / "real.pt").write_text("old")
    (tmp_path / "link.pt").symlink_to(tmp_path / "real.pt")
    fxgrow.save(model, tmp_path / "link.pt", overwrite=True)
    assert (tmp_path / "link.pt").is_symlink()
    assert read_table(tmp_path / "real.pt").parameters == 64 * 65


def test_permissions_are_those_of_any_new_file(model, tmp_path):
    fxgrow.save(model, tmp_path / "model.pt")
    (tmp_path / "plain").touch()
    assert (tmp_path / "model.pt").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("old", [False, True])
def test_a_full_disk_leaves_nothing_behind_and_the_old_file_alone(model, tmp_path, full_disk, old):
    path = tmp_path / "model.pt"
    if old:
        path.write_text("old")
    with pytest.raises(FileError, match="the disk is full, nothing was written; make room"):
        fxgrow.save(model, path, overwrite=True)
    assert os.listdir(tmp_path) == (["model.pt"] if old else [])
    assert not old or path.read_text() == "old"


def test_ctrl_c_leaves_nothing_behind(model, tmp_path, monkeypatch):
    def interrupted(document, stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fxgrow.save(model, tmp_path / "model.pt")
    assert os.listdir(tmp_path) == []


def test_ctrl_c_inside_the_writer_is_not_taken_for_another_error(model, tmp_path, monkeypatch):
    """torch's writer turns an exception of the stream into a RuntimeError."""
    real = torch.save

    class Interrupted:
        def __init__(self, stream):
            self.stream = stream

        def write(self, data):
            if self.stream.tell() > 1000:
                raise KeyboardInterrupt
            return self.stream.write(data)

    monkeypatch.setattr(torch, "save", lambda document, stream: real(document, Interrupted(stream)))
    with pytest.raises(KeyboardInterrupt):
        fxgrow.save(model, tmp_path / "model.pt")
    assert os.listdir(tmp_path) == []


def test_an_error_that_the_caller_was_handling_is_not_blamed(model, tmp_path, monkeypatch):
    def broken(document, stream):
        raise RuntimeError("a fault of torch")

    monkeypatch.setattr(torch, "save", broken)
    try:
        raise OSError(28, "No space left on device")
    except OSError:
        with pytest.raises(RuntimeError, match="a fault of torch"):
            fxgrow.save(model, tmp_path / "model.pt")


def test_a_file_that_appears_meanwhile_is_left_alone(model, tmp_path, monkeypatch):
    real = torch.save

    def slow(document, stream):
        real(document, stream)
        (tmp_path / "model.pt").write_text("somebody else's")

    monkeypatch.setattr(torch, "save", slow)
    with pytest.raises(FileError, match="it exists already"):
        fxgrow.save(model, tmp_path / "model.pt")
    assert os.listdir(tmp_path) == ["model.pt"]
    assert (tmp_path / "model.pt").read_text() == "somebody else's"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileError, match=r"its folder does not exist; mkdir -p .*/runs"):
        check_output(tmp_path / "runs" / "model.pt")


def test_a_directory_is_no_output(tmp_path):
    with pytest.raises(FileError, match="it is a directory"):
        check_output(tmp_path, overwrite=True)


def test_what_is_no_graph_module_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"a Linear is not a GraphModule; save what fxgrow.trace"):
        fxgrow.save(nn.Linear(2, 2), tmp_path / "model.pt")
    assert os.listdir(tmp_path) == []


def test_a_context_that_is_not_plain_data_is_refused(model, tmp_path):
    from fxgrow.record.record import GrowthEvent, update_record

    event = GrowthEvent(1, 2, (), 0, context={"hook": print})
    update_record(model, history=(event,))
    with pytest.raises(FileError, match="builtin_function_or_method, which is not plain data"):
        fxgrow.save(model, tmp_path / "model.pt")
    assert os.listdir(tmp_path) == []
