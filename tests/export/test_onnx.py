"""A grown model goes to ONNX, and onnxruntime agrees with PyTorch."""

import warnings

import pytest
import torch

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
pytest.importorskip("onnxscript", reason="needs the extra `export`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `export`")


@pytest.fixture(scope="module")
def path(grown_once, inputs, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "grown.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own libraries deprecate each other
        program = torch.onnx.export(
            grown_once, (inputs,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
        )
        program.save(path)
    return path


def test_onnxruntime_agrees_to_1e_4_at_every_batch_size(grown, inputs, path) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (placeholder,) = session.get_inputs()
    for size in (len(inputs), 1, 5):
        images = torch.randn(size, *inputs.shape[1:])
        (found,) = session.run(None, {placeholder.name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), grown(images), rtol=1e-4, atol=1e-4)


def test_the_file_is_valid_and_names_what_a_viewer_shows(grown, path) -> None:
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    initializers = {tensor.name for tensor in model.graph.initializer}
    # weights of Linear are stored transposed, under new names
    biases = {name for name, _ in grown.named_parameters() if "_pseudo_" in name and name.endswith("bias")}
    assert biases
    assert biases <= initializers
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    shown = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    assert {name for node in model.graph.node for name in node.output if name} <= shown
