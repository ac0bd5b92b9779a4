"""A grown model in the formats of other tools, what grew marked, and read back."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fxgrow
from fxgrow.errors import FileError
from fxgrow.export import (
    export_model_explorer,
    export_onnx,
    export_pt2,
    export_safetensors,
    log_to_tensorboard,
)
from fxgrow.files import read_table
from fxgrow.inspection import view_graph
from fxgrow.testing import random_scores, sample_models


@pytest.fixture
def small():
    model, inputs = sample_models()["mlp"].make()
    traced = fxgrow.trace(model, inputs, check=False)
    return fxgrow.grow(traced, random_scores(traced), budget=0.5)


@pytest.fixture
def rebuilt():
    return sample_models()["mlp"].make()[0]


def test_safetensors_come_back_bit_for_bit(small, rebuilt, tmp_path):
    path = tmp_path / "grown.safetensors"
    export_safetensors(small, path)
    again = fxgrow.load(path, base=rebuilt)
    assert again.state_dict().keys() == small.state_dict().keys()
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in again.state_dict().items())
    assert [row.name for row in read_table(path).nodes] == [node.name for node in small.graph.nodes]


def test_anybody_reads_the_weights_under_their_own_names(small, tmp_path):
    export_safetensors(small, tmp_path / "grown.safetensors")
    assert set(load_file(tmp_path / "grown.safetensors")) == set(small.state_dict())


def test_tied_weights_are_written_once_and_come_back_tied(tmp_path):
    model, inputs = sample_models()["tied"].make()
    traced = fxgrow.trace(model, inputs, check=False)
    export_safetensors(traced, tmp_path / "tied.safetensors")
    assert len(load_file(tmp_path / "tied.safetensors")) < len(traced.state_dict())
    again = fxgrow.load(tmp_path / "tied.safetensors", base=model)
    assert len(list(again.parameters())) == len(list(traced.parameters()))
    assert torch.equal(again.eval()(*inputs), traced.eval()(*inputs))


def test_a_flipped_bit_is_found(small, rebuilt, tmp_path):
    path = tmp_path / "grown.safetensors"
    export_safetensors(small, path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for read in (read_table, lambda file: fxgrow.load(file, base=rebuilt)):
        with pytest.raises(FileError, match="the file is damaged"):
            read(path)


def test_weights_of_others_are_named_as_such(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(FileError, match="it holds weights of safetensors, without a model"):
        fxgrow.load(tmp_path / "w.safetensors")


def test_pt2_computes_what_the_model_computes_and_says_what_grew(small, tmp_path):
    export_pt2(small, tmp_path / "grown.pt2")
    extra = {"fxgrow.json": ""}
    program = torch.export.load(tmp_path / "grown.pt2", extra_files=extra)
    inputs = sample_models()["mlp"].make(batch_size=5, seed=1)[1]
    assert torch.equal(program.module()(*inputs), small.eval()(*inputs))
    assert {grown["path"] for grown in json.loads(extra["fxgrow.json"])} == {
        name.rpartition(".")[0] for name, _ in small.named_buffers() if name.endswith(".rows")
    }


def test_onnx_marks_what_grew(small, tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    export_onnx(small, tmp_path / "grown.onnx")
    model = onnx.load(tmp_path / "grown.onnx")
    layers = {grown["path"] for grown in json.loads({p.key: p.value for p in model.metadata_props}["fxgrow.grown"])}
    marked = {}
    for node in model.graph.node:
        properties = {prop.key: prop.value for prop in node.metadata_props}
        if "fxgrow.pseudo_layer" in properties:
            marked[node.name] = properties["fxgrow.pseudo_layer"]
    assert set(marked.values()) == layers != set()
    assert all(name.startswith(f"{layer}/") for name, layer in marked.items())
    weights = {initializer.name for initializer in model.graph.initializer}
    assert all(any(name.startswith(layer) for name in weights) for layer in layers)


def test_model_explorer_gets_the_graph_and_numbers_for_its_nodes(small, tmp_path):
    random_scores(small).annotate(small)
    paths = export_model_explorer(small, tmp_path / "viewer")
    assert [path.name for path in paths] == ["graph.json", "depth.json", "scores.json"]
    (graph,) = json.loads(paths[0].read_text())["graphs"]
    names = {node["id"] for node in graph["nodes"]}
    view = view_graph(small)
    assert names == {node.name for node in view.nodes}
    edges = {(edge["sourceNodeId"], node["id"]) for node in graph["nodes"] for edge in node["incomingEdges"]}
    assert edges == set(view.edges)
    for path in paths[1:]:
        data = json.loads(path.read_text())[graph["id"]]
        assert data["results"].keys() <= names
        assert data["results"]
    depths = json.loads(paths[1].read_text())[graph["id"]]["results"]
    assert {name: entry["value"] for name, entry in depths.items()} == {n.name: n.depth for n in view.nodes if n.site}


def test_tensorboard_gets_scalars_and_histograms(small):
    class Writer:
        def __init__(self) -> None:
            self.scalars: dict[str, float] = {}
            self.histograms: dict[str, object] = {}

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.scalars[name] = value

        def add_histogram(self, name: str, values: object, step: int) -> None:
            self.histograms[name] = values

    random_scores(small).annotate(small)
    writer = Writer()
    log_to_tensorboard(writer, small, step=3)  # type: ignore[arg-type]
    assert writer.scalars["growth/parameters"] == sum(parameter.numel() for parameter in small.parameters())
    grown = {path for path, depths in fxgrow.depth_map(small).items() if max(depths)}
    assert {name.partition("/")[2] for name in writer.scalars if name.startswith("depth/")} == grown
    assert {name.partition("/")[2] for name in writer.histograms} == set(fxgrow.find_sites(small))


def test_tensorboard_itself_takes_them(small, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        log_to_tensorboard(writer, small, step=3)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("growth/events")[0].value == 1


def test_a_model_that_is_not_traced_is_refused(tmp_path):
    with pytest.raises(fxgrow.FxgrowError):
        export_safetensors(nn.Linear(2, 2), tmp_path / "x.safetensors")
