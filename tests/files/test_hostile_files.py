"""Files made to take time or memory by a few bytes that ask for many: refused as fast as others, in little memory."""

import json
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fxgrow
from fxgrow.errors import FileError
from fxgrow.files import read_table
from fxgrow.files.layout import FORMAT, VERSION
from fxgrow.files.plain_pickle import PlainUnpickler

Entries = dict[str, bytes]
PROTOCOL = b"\x80\x02"


def _refuse(*_: object) -> None:
    raise pickle.UnpicklingError("nothing is found or fetched")


def _entries(path: Path) -> Entries:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _pickled(entries: Entries, data: bytes) -> Entries:
    return {name: data if name.endswith("/data.pkl") else content for name, content in entries.items()}


def _document(table: object) -> bytes:
    parts = {"table": {"nodes": [], "extra": table}, "state_dict": {}, "buffers": {}, "checksums": {}}
    return pickle.dumps({"format": FORMAT, "format_version": VERSION, **parts}, protocol=2)


def _nested(depth: int, width: int) -> list[object]:
    value: list[object] = ["ha"]
    for _ in range(depth):
        value = [value] * width
    return value


TEXT = "x" * 900_000
PICKLES: dict[str, Callable[[], bytes]] = {
    "a memo of 2^32 places": lambda: PROTOCOL + b"}r\xff\xff\xff\xff.",
    "a bytearray of 2^40 bytes": lambda: PROTOCOL + b"\x96" + struct.pack("<Q", 2**40) + b".",
    "bytes of 2^62": lambda: PROTOCOL + b"\x8e" + struct.pack("<Q", 2**62) + b".",
    "a list of itself, 10^9 times over": lambda: _document(_nested(9, 10)),
    "a text repeated 3,000 times": lambda: _document([TEXT] * 3000),
    "lists 10,000 deep": lambda: PROTOCOL + b"]" * 10_000 + b"a" * 9_999 + b".",
    "lists 10,000 deep, each remembered": lambda: PROTOCOL + b"]q\0" * 10_000 + b"a" * 9_999 + b".",
}


def _refused_cheaply(path: Path) -> str:
    """Return the message with which a file is refused, in less than a second and twice the file's memory."""
    started = time.process_time()
    with pytest.raises(FileError):
        read_table(path)
    assert time.process_time() - started < 1
    tracemalloc.start()
    try:
        with pytest.raises(FileError) as caught:
            read_table(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size + 2**22
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _write(path: Path, entries: Entries, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_that_asks_for_more_than_it_holds_is_refused(kind: str, saved: Path) -> None:
    _write(saved, _pickled(_entries(saved), PICKLES[kind]()))
    _refused_cheaply(saved)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_an_archive_that_unfolds_is_refused_before_it_does(compression: int, saved: Path) -> None:
    _write(saved, _pickled(_entries(saved), PROTOCOL + bytes(20_000_000)), compression)
    assert "not one that PyTorch wrote" in _refused_cheaply(saved)


def test_an_encrypted_archive_is_refused(saved: Path) -> None:
    content, start = bytearray(saved.read_bytes()), 0
    while (start := content.find(b"PK\x01\x02", start) + 1) > 0:
        content[start + 7] |= 1
    saved.write_bytes(content)
    assert "not one that PyTorch wrote" in _refused_cheaply(saved)


def test_entries_that_overlap_are_refused(saved: Path) -> None:
    content = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        first = archive.start_dir
        end = content.rindex(b"PK\x05\x06")
    directory, count = content[first:end], struct.unpack_from("<H", content, end + 10)[0]
    times = 40
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count * times, count * times, len(directory) * times, first, 0)
    saved.write_bytes(content[:first] + directory * times + tail)
    _refused_cheaply(saved)


def test_one_tensor_shown_in_a_thousand_shapes_is_refused(saved: Path) -> None:
    document = torch.load(saved, weights_only=True)
    one = torch.zeros(2**16)
    document["state_dict"] = {f"t{i}": one.view(*[1] * i, 2**16) for i in range(50)}
    torch.save(document, saved)
    assert "its tensors show" in _refused_cheaply(saved)


@pytest.mark.parametrize("offsets", [[0, 2**40], [2**40, 2**40 + 4], [4, 0]])
def test_offsets_of_safetensors_outside_of_the_file_are_refused(offsets: list[int], tmp_path: Path) -> None:
    ours = {"format": FORMAT, "format_version": VERSION, "table": {}, "buffers": [], "aliases": {}, "checksums": {}}
    weight = {"dtype": "F32", "shape": [1], "data_offsets": offsets}
    header = json.dumps({"__metadata__": {"fxgrow": json.dumps(ours)}, "w": weight}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert "it is no whole file of safetensors" in _refused_cheaply(path)


def test_a_reader_of_plain_data_reads_what_python_pickles() -> None:
    values = [None, True, False, 0, 255, 256, 65536, -1, 2**31, -(2**63), 0.5, "", "é🙂", "x" * 300, (), (1,), (1, 2),
              (1, 2, 3), (1, 2, 3, 4), [], [[]], {}, {"a": {"b": [1, {"c": 2}]}}, list(range(2000)), ["x"] * 300,
              {str(i): [i, float(i), f"text {i}"] for i in range(300)}]  # fmt: skip
    for value in [*values, values]:
        assert PlainUnpickler(pickle.dumps(value, protocol=2), _refuse, _refuse).load() == value


def test_a_reader_of_plain_data_runs_nothing() -> None:
    for dangerous in (print, pickle.Pickler, Path("x"), {1, 2}, b"bytes", complex(1)):
        with pytest.raises(pickle.UnpicklingError):
            PlainUnpickler(pickle.dumps(dangerous, protocol=2), _refuse, _refuse).load()


def test_an_intact_file_is_read_in_little_memory(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1000, 2000), torch.nn.Linear(2000, 4))
    fxgrow.save(fxgrow.trace(model, torch.zeros(2, 1000)), tmp_path / "large.pt", check=False)
    tracemalloc.start()
    read_table(tmp_path / "large.pt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20 < (tmp_path / "large.pt").stat().st_size / 1.8
