import errno
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.fx as fx
from torch import nn

import fxgrow
from fxgrow.errors import FileError
from fxgrow.files import read_table
from fxgrow.files.layout import VERSION, checksum_of_plain
from fxgrow.files.plain import to_plain


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x)


def both_refuse(path, message):
    """Check that `load` and `read_table` refuse a file with the same single line that names it."""
    for read in (fxgrow.load, read_table):
        with pytest.raises(FileError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.fix


def test_missing(saved):
    both_refuse(saved.parent / "modle.pt", r"there is no such file; did you mean 'model\.pt'\? check the name")
    both_refuse(saved.parent / "nowhere" / "x.pt", "there is no such file; check the name")


def test_empty(tmp_path):
    (tmp_path / "x.pt").touch()
    both_refuse(tmp_path / "x.pt", "the file is empty")


def test_directory(tmp_path):
    both_refuse(tmp_path, "it is a directory")


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.9, 0.9999])
def test_truncated(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: max(1, int(len(content) * share))])
    both_refuse(saved, "the file is truncated")


def test_a_flipped_bit_in_a_tensor_names_the_tensor(saved, grown):
    content = bytearray(saved.read_bytes())
    weight = grown.get_parameter("2.weight").detach().numpy().tobytes()
    content[content.index(weight) + 17] ^= 0x10
    saved.write_bytes(content)
    both_refuse(saved, r"the file is damaged: the tensor 2\.weight does not fit its checksum; restore it")


def test_a_flipped_bit_anywhere_is_found_or_does_no_harm(saved):
    content = saved.read_bytes()
    expected = to_plain(read_table(saved))
    found = 0
    for position in range(3, len(content), 389):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        saved.write_bytes(flipped)
        try:
            assert to_plain(read_table(saved)) == expected
        except FileError:
            found += 1
    assert found > 20


def test_a_table_that_was_changed_is_found(saved):
    document = torch.load(saved, weights_only=True)
    document["table"]["parameters"] += 1
    torch.save(document, saved)
    both_refuse(saved, "its table does not fit its checksum")


def test_an_input_whose_sizes_are_no_numbers_is_refused(saved):
    document = torch.load(saved, weights_only=True)
    document["table"]["inputs"][0]["value"]["shape"] = [[2], 3]
    document["checksums"]["table"] = checksum_of_plain(document["table"])
    torch.save(document, saved)
    both_refuse(saved, "no shape of whole numbers and a dtype")


def test_a_tensor_that_was_removed_is_found(saved):
    document = torch.load(saved, weights_only=True)
    del document["state_dict"]["0.weight"]
    torch.save(document, saved)
    both_refuse(saved, "its tensors are not those that it was written with")


def test_a_document_of_another_layout_is_refused(saved):
    torch.save({"format": "fxgrow", "format_version": VERSION, "table": [], "state_dict": 3}, saved)
    both_refuse(saved, "it is not laid out as format version")


@pytest.mark.parametrize("version", [VERSION + 1, 99, None, "1"])
def test_newer_format(saved, version):
    document = torch.load(saved, weights_only=True)
    document["format_version"] = version
    torch.save(document, saved)
    both_refuse(saved, rf"it has format version {version}, .* reads version {VERSION}; update with `pip install")


def test_older_format(saved):
    document = torch.load(saved, weights_only=True)
    document["format_version"] = VERSION - 1
    torch.save(document, saved)
    both_refuse(saved, rf"it has format version {VERSION - 1}, .*; read it with the fxgrow that wrote it")


def test_plain_state_dict(tmp_path):
    torch.save(Net().state_dict(), tmp_path / "x.pt")
    both_refuse(tmp_path / "x.pt", "it is a plain state_dict of 2 tensors, without its model; build the model")


def test_old_state_dict(tmp_path):
    torch.save(Net().state_dict(), tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    both_refuse(tmp_path / "x.pt", "it is a plain state_dict of 2 tensors")


def test_foreign_checkpoint(tmp_path):
    torch.save({"epoch": 3, "model": Net().state_dict(), "a": 1, "b": 2, "c": 3}, tmp_path / "x.pt")
    both_refuse(tmp_path / "x.pt", "not a model of fxgrow: it holds a dict with epoch, model, a, b, …; build")
    torch.save(torch.zeros(3), tmp_path / "x.pt")
    both_refuse(tmp_path / "x.pt", "it holds a Tensor")


@pytest.mark.parametrize("new_format", [True, False])
def test_pickled_module(tmp_path, new_format):
    torch.save(nn.Linear(3, 3), tmp_path / "x.pt", _use_new_zipfile_serialization=new_format)
    both_refuse(
        tmp_path / "x.pt", r"it is a pickled nn.Module \(torch.*Linear\), which can run any code .* --unsafe-pickle"
    )


def test_pickled_graph_module(tmp_path):
    torch.save(fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3))), tmp_path / "x.pt")
    both_refuse(tmp_path / "x.pt", "it is a pickled GraphModule .*, which can run any code when it is read")


def test_bare_pickle(tmp_path):
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"a": np.float64(3)}))
    both_refuse(tmp_path / "x.pt", "it is a pickle that PyTorch did not write")


def test_torch_export_and_torchscript_archives(tmp_path):
    for name, kind in (("archive_format", "torch.export"), ("constants.pkl", "TorchScript")):
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
            archive.writestr(f"x/{name}", b"pt2")
            archive.writestr("x/data.pkl", b"")
        both_refuse(tmp_path / "x.pt", f"it is a {kind} archive, not a model of fxgrow")


def test_other_formats(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    both_refuse(tmp_path / "x.npz", "it is a zip archive, but not one that PyTorch wrote")
    (tmp_path / "x.pt").write_text("not a model at all")
    both_refuse(tmp_path / "x.pt", "it is not a file that PyTorch wrote")


class Malicious:
    """On unpickling, makes the folder that it is given."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("shape", ["alone", "in a document", "legacy", "bare"])
def test_a_malicious_pickle_does_not_run(tmp_path, saved, shape):
    trap, path = tmp_path / "trap", tmp_path / "x.pt"
    if shape == "bare":
        path.write_bytes(pickle.dumps(Malicious(trap)))
    elif shape == "in a document":
        document = torch.load(saved, weights_only=True)
        document["table"]["name"] = Malicious(trap)
        torch.save(document, path)
    else:
        torch.save(Malicious(trap), path, _use_new_zipfile_serialization=shape == "alone")
    kind = "a pickle that PyTorch did not write" if shape == "bare" else r"a pickled Python object \(posix\.mkdir\)"
    both_refuse(path, f"it is {kind}, which can run any code")
    assert not trap.exists()


def test_a_malicious_pickle_would_run_if_allowed(tmp_path):
    """The control: the trap of the test above does work."""
    torch.save(Malicious(tmp_path / "trap"), tmp_path / "x.pt")
    with pytest.raises(FileError, match="it holds a NoneType, not a module"):
        fxgrow.load(tmp_path / "x.pt", allow_pickle=True)
    assert (tmp_path / "trap").exists()


def test_pickles_are_read_when_allowed(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    x = torch.randn(2, 3)
    for value in (model, fx.symbolic_trace(model)):
        torch.save(value, tmp_path / "x.pt")
        loaded = fxgrow.load(tmp_path / "x.pt", allow_pickle=True)
        assert isinstance(loaded, fx.GraphModule)
        assert torch.equal(loaded(x), model(x))


def test_allowing_pickles_excuses_nothing_else(tmp_path, saved):
    torch.save({"a": 1}, tmp_path / "x.pt")
    with pytest.raises(FileError, match="not a model of fxgrow"):
        fxgrow.load(tmp_path / "x.pt", allow_pickle=True)


def test_a_pickled_module_that_plain_tracing_cannot_trace(tmp_path):
    torch.save(nn.LSTM(2, 2), tmp_path / "x.pt")
    with pytest.raises(FileError, match=r"its LSTM cannot be traced without example inputs; torch\.load it yourself"):
        fxgrow.load(tmp_path / "x.pt", allow_pickle=True)


def test_unreadable_bytes_in_a_valid_archive(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02garbage")
        archive.writestr("x/version", b"3\n")
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    both_refuse(tmp_path / "x.pt", "PyTorch cannot read it")


def test_a_file_that_the_system_refuses_to_open(saved, monkeypatch):
    def refused(path, mode):  # by hand, since root may open everything
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", refused)
    both_refuse(saved, r"it cannot be read \(Permission denied\); check its permissions")


@pytest.mark.parametrize("value", [{"shape": -1, "dtype": "float32"}, {"shape": [[4], 6], "dtype": "float32"}])
def test_an_input_without_a_shape_is_refused(saved, value):
    document = torch.load(saved, weights_only=True)
    document["table"]["inputs"][0]["value"] = value
    document["checksums"]["table"] = checksum_of_plain(document["table"])
    torch.save(document, saved)
    with pytest.raises(FileError, match="the input 'input' has no shape of whole numbers and a dtype"):
        read_table(saved)
