import os
import signal
import subprocess
import sys

import pytest

from fxgrow.errors import FileError
from fxgrow.files import atomic
from fxgrow.files.atomic import whole_or_nothing


@pytest.fixture(params=["without a name", "with a temporary name"])
def way(request, monkeypatch):
    if request.param == "with a temporary name":
        monkeypatch.setattr(atomic, "_nameless", lambda folder: None)


def test_the_file_appears_when_the_block_ends(tmp_path, way):
    target = tmp_path / "x"
    with whole_or_nothing(target) as stream:
        stream.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x"]


def test_an_older_file_survives_what_goes_wrong(tmp_path, way):
    target = tmp_path / "x"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), whole_or_nothing(target) as stream:
        stream.write(bytes([1 // 0]))
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_folder_that_is_gone_is_an_error_of_ours(tmp_path, way):
    with pytest.raises(FileError, match="it cannot be written"), whole_or_nothing(tmp_path / "no" / "x"):
        pass


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="the system has only files with names")
def test_a_process_that_is_killed_while_it_writes_leaves_nothing_behind(tmp_path):
    script = (
        "import os, pathlib, signal, sys; from fxgrow.files.atomic import whole_or_nothing\n"
        "with whole_or_nothing(pathlib.Path(sys.argv[1])) as stream:\n"
        "    stream.write(b'half'); stream.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")])
    assert killed.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []
