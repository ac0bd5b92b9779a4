"""`fxgrow.verify` finds every kind of difference, names it, and changes nothing."""

import copy
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fxgrow
from fxgrow import verification
from fxgrow.errors import VerificationError


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.drop(self.norm(self.first(x)))
        return {"logits": self.head(features), "features": features}


def sample() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def test_a_copy_is_equal_in_both_modes_and_at_two_batch_sizes():
    model = Network()
    report = fxgrow.verify(model, copy.deepcopy(model), sample())
    assert (report.modes, report.batch_sizes) == (("eval", "train"), (3, 4))
    assert (report.outputs, report.gradients, report.buffers) == (8, 24, 6)
    assert report.largest_absolute == report.largest_relative == 0.0


def shift_output(model: Network) -> None:
    model.head.bias.data[0] += 1e-3


def change_dropout(model: Network) -> None:
    model.drop.p = 0.4


def change_momentum(model: Network) -> None:
    model.norm.momentum = 0.2


def cut_gradient(model: Network) -> None:
    model.first.register_forward_hook(lambda module, args, output: output.detach())


def fix_batch_size(model: Network) -> None:
    model.register_forward_pre_hook(lambda module, args: args[0].reshape(3, 4))


def change_structure(model: Network) -> None:
    model.register_forward_hook(lambda module, args, output: tuple(output.values()))


def change_kind(model: Network) -> None:
    model.register_forward_hook(lambda module, args, output: OrderedDict(output))


def change_dtype(model: Network) -> None:
    model.register_forward_hook(lambda module, args, output: {**output, "logits": output["logits"].double()})


def make_nan(model: Network) -> None:
    model.head.bias.data[0] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shift_output, "output['logits']: it differs by 0.001"),
        (make_nan, "output['logits']: it differs by inf"),
        (change_dropout, "output['logits']: it differs by"),
        (change_momentum, "buffer norm.running_mean: it differs by"),
        (cut_gradient, "gradient of first.weight: there is none, where the reference has one"),
        (fix_batch_size, "eval mode, batch 4: it fails where the reference runs"),
        (change_structure, "the structure of the output: the outputs are output[0], output[1]"),
        (
            change_kind,
            "output: it is a OrderedDict and should be a dict (eval mode, batch 3); let both return the same",
        ),
        (change_dtype, "output['logits']: it is (3, 2) torch.float64 and should be (3, 2) torch.float32"),
    ],
)
def test_every_kind_of_difference_is_named(change: Callable[[Network], None], message: str):
    model = Network()
    other = copy.deepcopy(model)
    change(other)
    with pytest.raises(VerificationError) as caught:
        fxgrow.verify(model, other, sample())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_tolerance_depends_on_the_dtype():
    model = Network()
    other = copy.deepcopy(model)
    other.head.weight.data *= 1 + 1e-7
    fxgrow.verify(model, other, sample())
    with pytest.raises(VerificationError):
        fxgrow.verify(model.double(), other.double(), sample().double())
    fxgrow.verify(model, other, sample().double(), tolerance=1e-5)


def test_parameters_that_only_one_has_are_not_compared():
    model = nn.Sequential(nn.Linear(4, 2))
    other = nn.Sequential(model[0], nn.Linear(2, 2))
    nn.init.eye_(other[1].weight)
    nn.init.zeros_(other[1].bias)
    assert fxgrow.verify(model, other, sample(), modes=("eval",), batch_sizes=(3,)).gradients == 2


def test_models_that_share_parameters_and_buffers_are_left_as_they_were():
    model = Network()
    model.norm.eval()
    model.first.weight.grad = torch.ones_like(model.first.weight)
    twin = copy.copy(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    gradient = model.first.weight.grad
    fxgrow.verify(model, twin, sample())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert model.first.weight.grad is gradient
    assert model.head.weight.grad is None
    assert torch.equal(random, torch.get_rng_state())


def test_a_traced_model_needs_no_example_inputs():
    model = Network()
    assert fxgrow.verify(model, fxgrow.trace(model, sample())).gradients == 24


def test_untraced_models_need_example_inputs():
    with pytest.raises(VerificationError, match="give example inputs"):
        fxgrow.verify(Network(), Network())


def test_inputs_that_the_reference_does_not_take_are_refused():
    with pytest.raises(VerificationError, match="the reference: it does not run in train mode"):
        fxgrow.verify(Network(), Network(), torch.ones(3, 7))


class Broken(nn.Module):
    """Overwrites what its backward pass needs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).exp().add_(1)


def test_a_reference_whose_gradients_cannot_be_taken_is_refused():
    model = Broken()
    with pytest.raises(VerificationError, match="the reference in eval mode: its gradients cannot be taken, neither"):
        fxgrow.verify(model, model, sample())
    assert fxgrow.verify(model, model, sample(), gradients=False).gradients == 0


class Reentrant(nn.Module):
    """A reference of which torch.autograd.grad takes no gradients, and ``.backward()`` does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.second, torch.tanh(self.first(x)), use_reentrant=True))


def test_gradients_are_compared_by_backward_where_grad_cannot_take_them():
    model = Reentrant()
    assert fxgrow.verify(model, copy.deepcopy(model), sample()).gradients == 24
    other = copy.deepcopy(model)
    other.second.register_full_backward_hook(lambda module, before, after: (before[0] * 2,))
    with pytest.raises(VerificationError, match=r"gradient of first\.weight: it differs"):
        fxgrow.verify(model, other, sample())


def test_taking_gradients_by_backward_runs_no_optimizer_in_a_hook_and_leaves_gradients_as_they_were():
    model, steps = Reentrant(), []
    model.head.weight.grad = torch.ones(2, 4)
    gradient = model.head.weight.grad
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(steps.append)
    fxgrow.verify(model, copy.deepcopy(model), sample())
    assert not steps
    assert model.head.weight.grad is gradient
    assert torch.equal(gradient, torch.ones(2, 4))
    model(sample()).sum().backward()
    assert len(steps) == 6


def test_a_gradient_that_is_zero_at_the_moment_may_not_be_missing():
    model = Network()
    nn.init.zeros_(model.head.weight)
    other = copy.deepcopy(model)
    other.head.register_forward_pre_hook(lambda module, args: args[0].detach())
    only_logits = lambda module, args, output: output["logits"]  # noqa: E731
    model.register_forward_hook(only_logits)
    other.register_forward_hook(only_logits)
    with pytest.raises(VerificationError, match=r"gradient of first\.weight: there is none, where the reference"):
        fxgrow.verify(model, other, sample())


def test_gradients_that_are_sparse_are_compared():
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 2))
    other = copy.deepcopy(model)
    ids = torch.arange(6).reshape(2, 3)
    assert fxgrow.verify(model, other, ids).gradients == 12
    other[0].weight.register_hook(lambda gradient: gradient * 2)
    with pytest.raises(VerificationError, match=r"gradient of 0\.weight: it differs"):
        fxgrow.verify(model, other, ids)


def test_what_one_run_found_is_freed_before_the_next_one(monkeypatch: pytest.MonkeyPatch):
    observed: list[weakref.ref[verification.Observation]] = []
    alive: list[int] = []
    observe = verification.observe

    def watched(*args: Any, **options: Any) -> verification.Observation:
        alive.append(sum(reference() is not None for reference in observed))
        found = observe(*args, **options)
        observed.append(weakref.ref(found))
        return found

    monkeypatch.setattr(verification, "observe", watched)
    model = nn.Linear(3, 2)
    fxgrow.verify(model, model, torch.randn(2, 3))
    assert alive == [0, 1] * 4
