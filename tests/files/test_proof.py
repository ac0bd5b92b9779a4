"""What save writes, load reads, or save refuses and leaves no file behind."""

import io
import os
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import fxgrow
from fxgrow.errors import FileError
from fxgrow.export import export_safetensors
from fxgrow.passes import parse
from fxgrow.record.record import Origin, update_record

X = torch.linspace(-1, 1, 24).reshape(4, 6)
GROW = 'insert-pseudo-layers{rows={"4":[0,1]}}'


class Guarded(nn.Module):
    """Holds a lock, as modules that count their calls do."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.linear = threading.Lock(), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Drawing(nn.Module):
    """Draws from a generator of its own while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.linear = torch.Generator(), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + (torch.rand(8, generator=self.generator) if self.training else 0)


class Writing(nn.Module):
    """Holds an open file."""

    def __init__(self) -> None:
        super().__init__()
        self.log, self.linear = io.TextIOWrapper(io.BytesIO()), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Mixed(nn.Module):
    """Buffers of other dtypes than its weights, one of them outside the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("fine", torch.arange(8).double() / 7)
        self.register_buffer("coarse", torch.arange(8).half(), persistent=False)
        self.register_buffer("count", torch.tensor(3, dtype=torch.uint8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.fine.to(x.dtype) + self.coarse.float() * self.count


class Centred(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight - weight.mean(0)


def doubly_computed() -> nn.Module:
    layer = parametrizations.spectral_norm(nn.Linear(8, 8))
    parametrize.register_parametrization(layer, "weight", Centred())
    return layer


class Named(nn.Module):
    """Its tensors are called as parts of a file are."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Parameter(torch.full((6,), 2.0)), nn.Linear(6, 3)
        self.register_buffer("checksums", torch.ones(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x * self.table + self.checksums)


def model_of(middle) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), middle(), nn.GELU(), nn.Linear(8, 3))


def structured() -> nn.Module:
    return prune.ln_structured(nn.Linear(8, 8), "weight", amount=0.5, n=2, dim=0)


MIDDLES = {
    "old weight_norm": lambda: weight_norm(nn.Linear(8, 8)),
    "old spectral_norm": lambda: spectral_norm(nn.Linear(8, 8)),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 8)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 8)),
    "pruned": lambda: prune.random_unstructured(nn.Linear(8, 8), "weight", amount=0.5),
    "pruned by rows": structured,
    "pruned bias": lambda: prune.l1_unstructured(nn.Linear(8, 8), "bias", amount=2),
    "a lock": Guarded,
    "a generator": Drawing,
    "an open file": Writing,
    "buffers of other dtypes": Mixed,
    "computed twice": doubly_computed,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", MIDDLES)
def test_a_model_whose_parts_cannot_be_copied_comes_back_as_it_grew(name, tmp_path) -> None:
    grown = parse(GROW)(fxgrow.trace(model_of(MIDDLES[name]), X)).graph_module
    with torch.no_grad():
        for parameter in fxgrow.new_parameters(grown).values():
            parameter.add_(0.1)
    grown.train()(X)
    fxgrow.save(grown, tmp_path / "model.pt")
    again = fxgrow.load(tmp_path / "model.pt", base=model_of(MIDDLES[name]))
    assert torch.equal(again.eval()(X), grown.eval()(X))


@pytest.mark.parametrize("write", [fxgrow.save, export_safetensors])
def test_a_tensor_may_be_called_as_a_part_of_a_file_is(write, tmp_path) -> None:
    traced = fxgrow.trace(Named(), X)
    write(traced, tmp_path / "model.pt")
    again = fxgrow.load(tmp_path / "model.pt", base=Named())
    assert torch.equal(again(X), traced(X))
    assert fxgrow.files.read_table(tmp_path / "model.pt").parameters == 27


def test_pruning_between_two_growths_is_refused_before_there_is_a_file(tmp_path) -> None:
    once = parse('insert-pseudo-layers{rows={"2":[0,1]}}')(
        fxgrow.trace(model_of(lambda: nn.Linear(8, 8)), X)
    ).graph_module
    prune.l1_unstructured(once.get_submodule("2"), "weight", amount=0.5)
    twice = parse(GROW)(once).graph_module
    with pytest.raises(
        FileError, match=r"its edits cannot be replayed on its base \(.*\); take back what was changed by hand"
    ):
        fxgrow.save(twice, tmp_path / "model.pt")
    assert os.listdir(tmp_path) == []
    fxgrow.save(twice, tmp_path / "model.pt", check=False)
    again = fxgrow.load(tmp_path / "model.pt", base=twice)
    assert torch.equal(again(X), twice(X))


def test_a_layer_put_elsewhere_between_two_growths_is_named(tmp_path) -> None:
    once = parse(GROW)(fxgrow.trace(model_of(lambda: nn.Linear(8, 8)), X)).graph_module
    (activation,) = once.graph.find_nodes(op="call_module", target="4_pseudo_0.act")
    activation.target = "1"
    once.recompile()
    with pytest.raises(FileError, match="what its edits inserted was changed by hand"):
        fxgrow.save(once, tmp_path / "model.pt")


def test_an_origin_that_does_not_build_the_model_is_refused(tmp_path) -> None:
    pytest.importorskip("timm")
    traced = fxgrow.trace(model_of(lambda: nn.Linear(8, 8)), X)
    update_record(traced, origin=Origin("timm", "resnet10t", {"num_classes": 3}))
    with pytest.raises(FileError, match=r"load could not build it from timm:resnet10t: .*; write it with check=False"):
        fxgrow.save(traced, tmp_path / "model.pt")
    fxgrow.save(traced, tmp_path / "model.pt", check=False)
    assert torch.equal(fxgrow.load(tmp_path / "model.pt", base=model_of(lambda: nn.Linear(8, 8)))(X), traced(X))


def test_the_proof_leaves_the_model_and_the_random_state_as_they_were(tmp_path) -> None:
    grown = parse(GROW)(
        fxgrow.trace(model_of(lambda: nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5))), X)
    ).graph_module
    before = {name: tensor.clone() for name, tensor in grown.state_dict().items()}
    versions = [tensor._version for tensor in grown.state_dict().values()]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    fxgrow.save(grown, tmp_path / "model.pt")
    assert torch.equal(torch.rand(2), expected)
    assert grown.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in grown.state_dict().items())
    assert [tensor._version for tensor in grown.state_dict().values()] == versions


def test_a_hook_that_reads_the_inputs_of_the_model_by_place_comes_back(tmp_path) -> None:
    def build() -> nn.Module:
        model = model_of(lambda: nn.Linear(8, 8))
        model.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        return model

    traced = fxgrow.trace(build(), X)
    fxgrow.save(traced, tmp_path / "model.pt")
    assert torch.equal(fxgrow.load(tmp_path / "model.pt", base=build())(X), traced(X))
