"""Files with one field changed and the checksums recomputed, as somebody would who wants fxgrow to stumble."""

import contextlib
import copy
import io
import json
import os
import random
import struct
import time

import pytest
import torch
from rich.console import Console

import fxgrow
from fxgrow.errors import FxgrowError
from fxgrow.export import export_safetensors
from fxgrow.files import read_table
from fxgrow.files.checksums import checksum_of_tensor
from fxgrow.files.layout import checksum_of_plain
from fxgrow.inspection import to_text, view_tree

#: as many as fit into the gate; a longer run: FXGROW_MUTATIONS=10000 pytest tests/files/test_mutations.py
MUTATIONS = int(os.environ.get("FXGROW_MUTATIONS", "600"))


def strange_values(draw):
    return [
        None, True, -1, 0, 7, 2**40, 2**62, 2**70, -(2**63), 0.5, float("nan"), float("inf"), "", "x", "\n", "🙂" * 40,
        "0.weight", "../../etc/passwd", "widen{}", 'insert-pseudo-layers{rows={"0":[99999999]}}', "eval(1)", [], [[]],
        {}, {"": None}, [None], list(range(50)), {"a": {"b": [1, {"c": 2}]}}, torch.float32, torch.zeros(2),
        torch.zeros(()), torch.zeros(1).expand(2**33), torch.zeros(3).to_sparse(),
        torch.zeros(2, dtype=torch.complex64), set(), (1, 2), b"bytes", 1j,
        "".join(chr(draw.randrange(32, 1200)) for _ in range(20)),
    ]  # fmt: skip


def places_in(value, path=()):
    """All places in a document, its containers included."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places_in(item, (*path, key))


def mutate(document, draw):
    """Change, remove, repeat or add one thing."""
    path = draw.choice(list(places_in(document)))
    *above, last = path
    holder = document
    for key in above:
        holder = holder[key]
    action = draw.choice(["replace", "replace", "replace", "remove", "repeat", "swap"])
    if action == "remove":
        del holder[last]
    elif action == "repeat" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[last]))
    elif action == "swap" and isinstance(holder, list):
        holder[last], holder[-1] = holder[-1], holder[last]
    else:
        holder[last] = draw.choice(strange_values(draw))
    return path, action


def checksums(document):
    """Recompute the checksums as far as the parts still have one."""
    found = {}
    try:
        found["table"] = checksum_of_plain(document["table"])
        tensors = {**document["buffers"], **document["state_dict"]}
        for name, tensor in tensors.items():
            found[name] = checksum_of_tensor(tensor) if tensor.numel() < 2**20 else "0" * 64
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError):
        return document.get("checksums")
    return found


def outcome(call, *args, **options):
    """Return what a call returns, and the message with which it refuses; anything else that it raises is a fault."""
    try:
        return call(*args, **options), None
    except FxgrowError as error:
        return None, str(error)


@pytest.mark.parametrize("seed", range(4))
def test_a_changed_field_is_refused_or_read_as_it_stands(saved, grown, tmp_path, mlp, seed):
    original = torch.load(saved, weights_only=True)
    draw, path = random.Random(seed), tmp_path / "mutated.pt"
    read = refused = 0
    for _ in range(MUTATIONS // 4):
        document = copy.deepcopy(original)
        what = mutate(document, draw)
        if "checksums" not in what[0]:
            document["checksums"] = checksums(document)
        torch.save(document, path)
        started = time.process_time()
        table, refusal = outcome(read_table, path)
        assert time.process_time() - started < 1, what
        if refusal is not None:
            assert "\n" not in refusal, what
            assert str(path) in refusal, what
            refused += 1
            continue
        read += 1
        Console(file=io.StringIO(), width=80).print(to_text(view_tree(table)))
        loaded, refusal = outcome(fxgrow.load, path, base=mlp)
        if refusal is not None:
            assert "\n" not in refusal, what
            continue
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, document["state_dict"][name]), what
    assert read > 10
    assert refused > 50


def parts_of(path):
    """Return the places of the tensors in a file of safetensors, our document, and the numbers."""
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    entries = json.loads(content[8:end])
    return entries, json.loads(entries.pop("__metadata__")["fxgrow"]), content[end:]


def write_parts(path, entries, ours, numbers):
    header = json.dumps({**entries, "__metadata__": {"fxgrow": json.dumps(ours)}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + numbers)


def test_a_changed_header_of_safetensors_is_refused_or_read_as_it_stands(grown, tmp_path, mlp):
    path, draw, reads = tmp_path / "model.safetensors", random.Random(0), 0
    export_safetensors(grown, path)
    entries, ours, numbers = parts_of(path)
    for _ in range(MUTATIONS // 15):
        changed = copy.deepcopy({"entries": entries, "ours": ours})
        what = mutate(changed, draw)
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            changed["ours"]["checksums"]["table"] = checksum_of_plain(changed["ours"]["table"])
        try:
            write_parts(path, changed["entries"], changed["ours"], numbers)
        except (KeyError, TypeError, ValueError):
            continue  # JSON has no word for it
        loaded, refusal = outcome(fxgrow.load, path, base=mlp)
        reads += loaded is not None
        assert refusal is None or "\n" not in refusal, what
    assert reads > 3


def test_safetensors_of_parts_that_do_not_fit_together_are_refused(grown, tmp_path):
    path = tmp_path / "model.safetensors"
    export_safetensors(grown, path)
    entries, ours, numbers = parts_of(path)
    many = {**ours, "table": {**ours["table"], "nodes": [{}] * 100_001}}
    for document, reason in {
        "no list of buffers": ({**ours, "buffers": None}, "Expected `array`"),
        "a buffer that is no tensor": ({**ours, "buffers": ["nowhere"]}, "not among its tensors"),
        "too many nodes": (many, "100,000 is the limit"),
    }.values():
        write_parts(path, entries, document, numbers)
        for read in (read_table, fxgrow.load):
            with pytest.raises(FxgrowError, match=reason):
                read(path)


def test_a_table_of_too_many_nodes_is_refused_at_once(saved):
    document = torch.load(saved, weights_only=True)
    document["table"]["nodes"] *= 100_000 // len(document["table"]["nodes"]) + 1
    torch.save(document, saved)
    with pytest.raises(FxgrowError, match=r"it has 100,\d+ nodes, and 100,000 is the limit"):
        read_table(saved)


def test_a_tensor_that_is_larger_than_its_bytes_is_refused_before_it_is_read(saved):
    document = torch.load(saved, weights_only=True)
    document["state_dict"]["0.weight"] = torch.zeros(1).expand(2**33)
    torch.save(document, saved)
    with pytest.raises(FxgrowError, match=r"'0\.weight' of 8,589,934,592 numbers does not fill its bytes"):
        read_table(saved)
