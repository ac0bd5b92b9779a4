"""Deep copies of models that Python alone cannot copy."""

import threading

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, weight_norm

from fxgrow.primitives.copying import deep_copy


class Guarded(nn.Module):
    """Holds what cannot be copied: directly, in a container, in an object, and as a module of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.kept, self.library = threading.Lock(), {"items": [iter(range(3))]}, numpy
        self.helper = Helper()
        self.linear = nn.Linear(4, 4)
        self.hook = self.linear.register_forward_hook(self.doubled)

    def doubled(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * self.helper.factor

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.linear(x)


class Helper:
    def __init__(self) -> None:
        self.lock, self.factor = threading.Lock(), 2.0


def legacy_weight_norm() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(4, 4)), nn.GELU())


def pruned() -> nn.Module:
    return nn.Sequential(prune.l1_unstructured(nn.Linear(4, 4), "weight", amount=0.5), nn.GELU())


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("build", [legacy_weight_norm, pruned, Guarded])
def test_a_copy_computes_the_same_and_shares_no_tensor(build) -> None:
    model, x = build(), torch.linspace(-1, 1, 8).reshape(2, 4)
    expected = model(x).detach()
    copied = deep_copy(model)
    assert torch.equal(copied(x), expected)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.fill_(0.5)
    assert not torch.equal(copied(x), expected)
    assert torch.equal(model(x), expected)


def test_what_refers_to_the_model_refers_to_the_copy() -> None:
    model = Guarded()
    copied = deep_copy(model)
    copied.helper.factor = 3.0
    x = torch.ones(1, 4)
    assert torch.allclose(copied(x), 1.5 * model(x))
    assert copied.lock is model.lock
    assert copied.library is numpy


def test_ties_and_what_the_memo_holds_stay() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    memo = {id(model[0].bias): model[0].bias}
    copied = deep_copy(model, memo)
    assert copied[1].weight is copied[0].weight is not model[0].weight
    assert copied[0].bias is model[0].bias
