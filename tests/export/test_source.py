"""A model as PyTorch source: read by a process that has no fxgrow, trained there, and equal bit for bit."""

import collections
import enum
import math
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import fxgrow
from fxgrow.errors import ExportError
from fxgrow.export import export_source
from fxgrow.export.source.checking import _same
from fxgrow.export.source.layout import wrapped
from fxgrow.testing import random_scores, sample_models

#: runs what was written where fxgrow and what the models come from cannot be imported, and trains it for a step
_ELSEWHERE = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("fxgrow", "timm", "torchvision", "transformers"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing())
import torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
from model import load

inputs = load_file("inputs.safetensors")["inputs"].clone()  # sums may depend on where numbers lie in memory
model = load()
results = {"before": model.eval()(inputs).detach().clone()}
model.train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
torch.manual_seed(0)
model(inputs).square().mean().backward()
optimizer.step()
results["after"] = model.eval()(inputs).detach().clone()
save_file(results, "results.safetensors")
assert not any(name.partition(".")[0] == "fxgrow" for name in sys.modules)
"""


def grow(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.fx.GraphModule:
    traced = fxgrow.trace(model, inputs, check=False)
    once = fxgrow.grow(traced, random_scores(traced), budget=0.3)
    return fxgrow.grow(once, random_scores(once, seed=1), budget=0.2, operator="branch")


def run_elsewhere(folder: pathlib.Path, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    save_file({"inputs": inputs.contiguous()}, folder / "inputs.safetensors")
    (folder / "elsewhere.py").write_text(_ELSEWHERE)
    done = subprocess.run([sys.executable, "elsewhere.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "results.safetensors")


def train_here(model: nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    before = model.eval()(inputs).detach().clone()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(0)
    model(inputs).square().mean().backward()
    optimizer.step()
    return {"before": before, "after": model.eval()(inputs).detach().clone()}


@pytest.mark.parametrize("name", ["mlp", "resnet", "vit"])
def test_what_is_written_computes_and_trains_alike_without_fxgrow(name, tmp_path):
    model, inputs = sample_models()[name].make()
    grown = grow(model, inputs)
    export_source(grown, tmp_path)
    found, expected = run_elsewhere(tmp_path, inputs[0]), train_here(grown, inputs[0])
    assert torch.equal(found["before"], expected["before"])
    assert torch.equal(found["after"], expected["after"])


@pytest.mark.parametrize("name", [name for name in sample_models() if name not in ("mlp", "resnet", "vit")])
def test_each_sample_model_is_written_and_found_equal(name, tmp_path):
    model, inputs = sample_models()[name].make()
    source = export_source(grow(model, inputs), tmp_path)
    assert "fxgrow." not in source.read_text().partition('"""\n')[2].replace("fxgrow 0", "")


def test_blocks_of_one_structure_are_one_class_called_in_a_loop(tmp_path):
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.inner(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(3))
            self.head = nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    text = export_source(fxgrow.trace(Net(), torch.zeros(2, 6)), tmp_path).read_text()
    assert text.count("class ") == 2
    assert "self.blocks = nn.ModuleList([Block() for _ in range(3)])" in text
    assert "for block in self.blocks:" in text
    assert set(load_file(tmp_path / "weights.safetensors")) == set(Net().state_dict())


@pytest.mark.parametrize("name", ["vit", "reused"])
def test_what_is_written_is_ruff_clean(name, tmp_path):
    model, inputs = sample_models()[name].make()
    check_with_ruff(export_source(grow(model, inputs), tmp_path))


def test_named_outputs_of_transformers_are_a_plain_dataclass(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=3))
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 16, 16))).float()
    traced = fxgrow.trace(model, {"pixel_values": images}, check=False)
    grown = fxgrow.grow(traced, random_scores(traced), budget=0.3)
    source = export_source(grown, tmp_path)
    written = {"__file__": str(source), "__name__": "model"}
    exec(compile(source.read_text(), str(source), "exec"), written)
    found = written["load"]()(images)
    assert type(found) is written["ImageClassifierOutput"]
    assert torch.equal(found.logits, grown(images).logits)
    check_with_ruff(source)


def check_with_ruff(source: pathlib.Path) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--isolated", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_tied_and_frozen_parameters_stay_so(tmp_path):
    model, inputs = sample_models()["tied"].make()
    traced = fxgrow.trace(model, inputs, check=False)
    frozen = next(name for name, _ in traced.named_parameters())
    traced.get_parameter(frozen).requires_grad_(False)
    export_source(traced, tmp_path)
    scope: dict[str, object] = {"__file__": str(tmp_path / "model.py"), "__name__": "written"}
    exec(compile((tmp_path / "model.py").read_text(), "model.py", "exec"), scope)
    written = scope["load"]()
    assert len(list(written.parameters())) == len(list(traced.parameters()))
    assert sum(not parameter.requires_grad for parameter in written.parameters()) == 1


def test_double_precision_is_kept(tmp_path):
    model, inputs = sample_models()["mlp"].make(dtype=torch.float64)
    export_source(fxgrow.trace(model, inputs, check=False), tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "weights.safetensors").values()} == {torch.float64}


def test_what_plain_torch_does_not_have_is_refused_by_name(tmp_path):
    def elsewhere(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(elsewhere, (x,)))
    with pytest.raises(ExportError, match="elsewhere, which plain torch does not have; export it --to pt2"):
        export_source(torch.fx.GraphModule(nn.Module(), graph), tmp_path)
    assert list(tmp_path.iterdir()) == []


class Choice(enum.IntEnum):
    LAST = 1


class Odd(nn.Module):
    """Names and constants that Python's own spelling gets wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("0", nn.Linear(4, 4))
        self.layer_0 = nn.Linear(4, 4)
        self.register_buffer("shift", torch.arange(4.0), persistent=False)
        self.scale = nn.Parameter(torch.full((4,), 0.5))

    def forward(self, x):
        y = getattr(self, "0")(x) - self.layer_0(x) + self.shift
        y[:, 1:3] = float("-inf")
        y = y.softmax(dim=Choice.LAST)
        return y[0, (1, 2)], y[..., None], (x * (1 + 2j)).imag, {"scale": self.scale}, torch.full_like(x, float("nan"))


class Path(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = load_model()

    def forward(self, x):
        return self.inner(x) + 1


class load_model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x).relu()


@pytest.mark.parametrize("kind", [Odd, Path])
def test_names_and_constants_that_need_care_come_back_from_a_file_as_they_were(kind, tmp_path):
    model, inputs = kind().eval(), torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
    source = export_source(fxgrow.trace(model, inputs), tmp_path)
    module = types.ModuleType("written")
    module.__file__ = str(source)
    exec(compile(source.read_text(), source, "exec"), vars(module))
    torch.testing.assert_close(module.load()(inputs), model(inputs), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("value", [0.0, -0.0, math.inf, 2.5])
def test_a_number_is_not_taken_for_nan(value):
    nan, number = torch.tensor([math.nan, 1.0]), torch.tensor([value, 1.0])
    assert _same(nan, nan)
    assert _same(number, number)
    assert not _same(nan, number)
    assert not _same(torch.tensor([torch.finfo().max, 1.0]), number)


def test_an_output_type_of_another_package_is_refused_by_name(tmp_path):
    class Ordered(nn.Module):
        def forward(self, x):
            return collections.OrderedDict(a=x)

    with pytest.raises(ExportError, match="OrderedDict, which plain torch does not have; export it --to pt2"):
        export_source(fxgrow.trace(Ordered(), torch.zeros(2)), tmp_path)


def test_an_autograd_function_is_refused_by_name(tmp_path):
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    class Doubling(nn.Module):
        def forward(self, x):
            return Double.apply(x)

    with pytest.raises(ExportError, match="apply, which plain torch does not have; export it --to pt2"):
        export_source(fxgrow.trace(Doubling(), torch.zeros(2)), tmp_path)


def test_files_that_are_there_are_kept(tmp_path):
    model, inputs = sample_models()["mlp"].make()
    traced = fxgrow.trace(model, inputs, check=False)
    export_source(traced, tmp_path)
    with pytest.raises(ExportError, match="it exists already"):
        export_source(traced, tmp_path)
    export_source(traced, tmp_path, overwrite=True)


def test_a_convolutional_network_of_torchvision_is_written(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    block = torchvision.models.resnet.BasicBlock
    draws = np.random.default_rng(0)
    images = torch.from_numpy(draws.normal(size=(2, 3, 32, 32)).astype(np.float32))
    net = torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=3, width_per_group=64)
    net.fc = nn.Linear(512, 3)
    traced = fxgrow.trace(net, images, check=False)
    export_source(traced, tmp_path)
    found = run_elsewhere(tmp_path, images)
    assert torch.equal(found["before"], traced.eval()(images))


def test_long_lines_are_broken_at_brackets_and_not_in_strings():
    line = f'    x = f("{"a, (b" * 12}", [1, 2], self.weight, another={{"key": "value"}}, third=None)'
    pieces = list(wrapped(line))
    assert len(pieces) == 7
    assert pieces[0] == "    x = f("
    assert pieces[-1] == "    )"
    assert [piece.strip() for piece in pieces[2:-1]] == [
        "[1, 2],", "self.weight,", 'another={"key": "value"},', "third=None,",
    ]  # fmt: skip
