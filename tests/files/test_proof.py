"""What save writes, load reads, or save refuses and leaves no file behind."""

import os
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import fxgrow
from fxgrow.errors import FileError
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
