"""Scores are those of the loss of whole batches, as the user's function computes it, whatever it is.

With N samples in all, n_b of them in batch b, everything is derived from
``L = sum_b n_b / N loss_fn(output_b, target_b)``. Expected values come from autograd on that sum: float64, so that the
bounds are rounding error.
"""

from typing import Any

import numpy as np
import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.curvature import analyze, analyze_units, find_score
from fxgrow.errors import AnalysisError
from fxgrow.passes.insert_half_steps import InsertHalfSteps

pytestmark = pytest.mark.filterwarnings("ignore::fxgrow.curvature.FewSamplesWarning")

CLASSES, WIDTH, HIDDEN = 5, 6, 4
RANDOM = np.random.default_rng(0)
WEIGHT = torch.tensor([1.0, 5.0, 0.2, 1.0, 3.0], dtype=torch.float64)


def _normal(*shape: int) -> Tensor:
    return torch.from_numpy(RANDOM.standard_normal(shape))


class Network(nn.Module):
    def __init__(self, outputs: int = CLASSES, norm: bool = False) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN).double(), nn.Linear(HIDDEN, outputs).double()
        self.norm = nn.BatchNorm1d(HIDDEN).double() if norm else nn.Identity()
        with torch.no_grad():
            for parameter in (*self.fc1.parameters(), *self.fc2.parameters()):
                parameter.copy_(0.7 * _normal(*parameter.shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.norm(self.fc1(x))))


class TwoHeaded(Network):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.fc1(x))
        return {"classes": self.fc2(hidden), "size": hidden.square().sum(1)}


def _contrastive(output: Tensor, target: Tensor) -> Tensor:
    z = F.normalize(output, dim=1)
    likeness = z @ z.T / 0.5 - 1e3 * torch.eye(len(z), dtype=z.dtype)
    return F.cross_entropy(likeness, torch.arange(len(z)).roll(1))


def _ctc(output: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
    """Take time for the second dimension of the output: (samples, time, classes)."""
    labels, lengths = target
    steps = output.reshape(len(output), -1, CLASSES).log_softmax(2).transpose(0, 1)
    return F.ctc_loss(steps, labels, torch.full((len(output),), len(steps)), lengths)


def _dice(output: Tensor, target: Tensor) -> Tensor:
    likely, wanted = output.softmax(1), F.one_hot(target, CLASSES).to(output)
    return 1 - 2 * (likely * wanted).sum() / (likely + wanted).sum()


def _per_positive(output: Tensor, target: Tensor) -> Tensor:
    """Divide by how many positives a batch has, as detectors do."""
    return F.binary_cross_entropy_with_logits(output, target, reduction="sum") / target.sum().clamp(min=1)


class Tempered(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.7, dtype=torch.float64))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.scale * output, target)


def _labels(count: int) -> Tensor:
    return torch.from_numpy(RANDOM.integers(0, CLASSES, count))


def _with_holes(count: int) -> Tensor:
    return torch.where(torch.arange(count) % 3 == 1, -100, _labels(count))


def _multilabel(count: int) -> Tensor:
    return torch.from_numpy(RANDOM.integers(0, 2, (count, CLASSES))).double()


def _texts(count: int) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(RANDOM.integers(1, CLASSES, (count, 2))), torch.full((count,), 2)


LOSSES = {
    "mean": (F.cross_entropy, _labels, Network),
    "sum": (lambda o, t: F.cross_entropy(o, t, reduction="sum"), _labels, Network),
    "class weights": (lambda o, t: F.cross_entropy(o, t, weight=WEIGHT), _labels, Network),
    "ignore_index": (F.cross_entropy, _with_holes, Network),
    "label smoothing": (lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1), _labels, Network),
    "pos_weight": (lambda o, t: F.binary_cross_entropy_with_logits(o, t, pos_weight=WEIGHT), _multilabel, Network),
    "CTC": (_ctc, _texts, lambda: Network(4 * CLASSES)),
    "contrastive": (_contrastive, _labels, Network),
    "two heads": (lambda o, t: F.cross_entropy(o["classes"], t) + 0.3 * o["size"].mean(), _labels, TwoHeaded),
    "dice": (_dice, _labels, Network),
    "divided by positives": (_per_positive, _multilabel, Network),
    "a parameter of its own": (Tempered(), _labels, Network),
    "BatchNorm in train mode": (F.cross_entropy, _labels, lambda: Network(norm=True)),
}
SIZES = {"one batch": (9,), "unequal batches": (9, 4, 6)}


def _setup(name: str, sizes: tuple[int, ...]):
    loss_fn, targets, make = LOSSES[name]
    model = make()
    batches = [(_normal(size, WIDTH), targets(size)) for size in sizes]
    return model, torch.fx.symbolic_trace(model).train(), loss_fn, batches


def _objective(model: nn.Module, loss_fn, batches, weight: Tensor) -> Tensor:
    total = sum(len(x) for x, _ in batches)
    losses = [
        loss_fn(torch.func.functional_call(model, {"fc1.weight": weight}, (x,)), target) * (len(x) / total)
        for x, target in batches
    ]
    return torch.stack(losses).sum()


def _branch_matrices(model: nn.Module, loss_fn, batches) -> Tensor:
    """Return ``S_i``, the second derivative by A_i where ``(A_i x)^2 / 2`` is added to neuron i, at A = 0."""
    total: Tensor | float = 0.0
    for x, target in batches:
        added = torch.zeros(len(x), HIDDEN, dtype=torch.float64, requires_grad=True)
        hook = model.fc1.register_forward_hook(lambda _, inputs, output, added=added: output + added)
        loss = loss_fn(model(x), target) * (len(x) / sum(len(inputs) for inputs, _ in batches))
        hook.remove()
        (delta,) = torch.autograd.grad(loss, added)
        total = total + torch.einsum("ti,td,te->ide", delta, x, x)
    return total


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", LOSSES)
class TestAgainstAutograd:
    def test_the_branch_score(self, name: str, sizes: tuple[int, ...]) -> None:
        model, traced, loss_fn, batches = _setup(name, sizes)
        found = analyze(traced, loss_fn, batches, score="branch", sites=["fc1"], iterations=WIDTH)["fc1"].values
        expected = torch.linalg.eigvalsh(_branch_matrices(model, loss_fn, batches))[:, 0]
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)

    def test_the_hessian_score(self, name: str, sizes: tuple[int, ...]) -> None:
        model, traced, loss_fn, batches = _setup(name, sizes)
        if name == "CTC":
            with pytest.raises(AnalysisError, match="no second derivative"):
                analyze(traced, loss_fn, batches, score="hessian")
            return
        found = analyze(traced, loss_fn, batches, score="hessian", sites=["fc1"], iterations=WIDTH)["fc1"]
        hessian = torch.autograd.functional.hessian(
            lambda weight: _objective(model, loss_fn, batches, weight), model.fc1.weight.detach()
        )
        expected = torch.stack([torch.linalg.eigvalsh(hessian[i, :, i])[0] for i in range(HIDDEN)])
        torch.testing.assert_close(found.values, expected, rtol=1e-8, atol=1e-12)
        assert (found.held_out is None) == (len(batches) == 1)

    def test_the_gradient_score(self, name: str, sizes: tuple[int, ...]) -> None:
        model, traced, loss_fn, batches = _setup(name, sizes)
        found = analyze(traced, loss_fn, batches, score="gradient", sites=["fc1"])["fc1"].values
        weight = model.fc1.weight.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(_objective(model, loss_fn, batches, weight), weight)
        torch.testing.assert_close(found, gradient.norm(dim=1), rtol=1e-8, atol=1e-12)

    def test_no_score_calls_the_loss_on_less_than_a_whole_batch(self, name: str, sizes: tuple[int, ...]) -> None:
        _, traced, loss_fn, batches = _setup(name, sizes)
        seen = set()

        def watched(output, target):
            heads = output.values() if isinstance(output, dict) else (output,)
            seen.update(len(head) for head in heads)
            return loss_fn(output, target)

        for score in ("eigen", "residual", "insertion", "quadratic", *(["hessian"] if name != "CTC" else [])):
            analyze(traced, watched, batches, score=score, iterations=2)
        assert seen == set(sizes)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(WIDTH, HIDDEN).double(), nn.Linear(WIDTH, HIDDEN).double()
        self.down = nn.Linear(HIDDEN, CLASSES).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


@pytest.mark.parametrize("name", ["mean", "sum", "class weights", "contrastive"])
def test_units_of_one_batch_are_halved_without_cutting_the_loss(name: str) -> None:
    loss_fn = LOSSES[name][0]
    model = Gated()
    x, target = _normal(8, WIDTH), _labels(8)
    scores = analyze_units(torch.fx.symbolic_trace(model), loss_fn, [(x, target)], iterations=2 * WIDTH)
    (found,) = scores.values()
    output = F.silu(model.gate(x)) * model.up(x)
    (delta,) = torch.autograd.grad(loss_fn(model.down(output), target), output)

    def surrogate(theta: Tensor, chosen: slice) -> Tensor:
        gate, up = theta.split(WIDTH, dim=1)
        unit = F.silu(F.linear(x, gate, model.gate.bias)) * F.linear(x, up, model.up.bias)
        return (delta * unit)[chosen].sum() * (8 / len(x[chosen]))

    theta = torch.cat([model.gate.weight, model.up.weight], dim=1).detach()
    blocks = []
    for chosen in (slice(None), slice(0, None, 2), slice(1, None, 2)):
        hessian = torch.autograd.functional.hessian(lambda t, part=chosen: surrogate(t, part), theta)
        blocks.append(torch.stack([hessian[i, :, i] for i in range(HIDDEN)]))
    values, (first, second) = (
        torch.linalg.eigvalsh(blocks[0])[:, 0],
        (torch.linalg.eigh(b).eigenvectors for b in blocks[1:]),
    )
    torch.testing.assert_close(found.values, values, rtol=1e-8, atol=1e-12)
    v, w = first[:, :, 0], second[:, :, 0]
    held_out = (torch.einsum("ni,nij,nj->n", v, blocks[2], v) + torch.einsum("ni,nij,nj->n", w, blocks[1], w)) / 2
    assert found.held_out is not None
    torch.testing.assert_close(found.held_out, held_out, rtol=1e-6, atol=1e-10)


def test_the_gauss_newton_metric_refuses_a_loss_that_compares_samples() -> None:
    _, traced, loss_fn, batches = _setup("contrastive", (40,))
    with pytest.raises(AnalysisError, match="compares samples"):
        analyze(traced, loss_fn, batches, score=find_score("gain")(candidates=2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN).double(), nn.Linear(HIDDEN, WIDTH).double()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(torch.tanh(self.fc1(x)))


class Stepping(nn.Module):
    """What `Network` and `TwoHeaded` are, with a residual block in the place of the hidden layer."""

    def __init__(self, alike: nn.Module) -> None:
        super().__init__()
        normed = isinstance(alike.norm, nn.BatchNorm1d)
        self.block, self.norm = Block(), nn.BatchNorm1d(WIDTH).double() if normed else nn.Identity()
        self.head = nn.Linear(WIDTH, alike.fc2.out_features).double()
        self.heads = 2 if isinstance(alike, TwoHeaded) else 1
        with torch.no_grad():
            for parameter in (*self.block.parameters(), *self.head.parameters()):
                parameter.copy_(0.7 * _normal(*parameter.shape))

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        hidden = self.norm(self.block(x))
        return self.head(hidden) if self.heads == 1 else {"classes": self.head(hidden), "size": hidden.square().sum(1)}


class Kept(fx.Interpreter):
    """Keeps what the two halves of the hidden layer read, and what they make of it, with its gradient."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.target is torch.tanh:
            value.retain_grad()
            self.halves.append((self.env[n.args[0].args[0]].detach(), value))
        return value


def _splitting_matrices(doubled: fx.GraphModule, loss_fn, batches) -> Tensor:
    total: Tensor | float = 0.0
    for x, target in batches:
        kept = Kept(doubled, garbage_collect_values=False)
        kept.halves = []
        loss_fn(kept.run(x), target).backward()
        for read, a in kept.halves:
            coefficients = a.grad * -2 * a.detach() * (1 - a.detach().square()) * len(x)
            total = total + torch.einsum("ti,td,te->ide", coefficients, read, read)
    return total / sum(len(x) for x, _ in batches)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", LOSSES)
def test_the_scores_of_half_steps(name: str, sizes: tuple[int, ...]) -> None:
    """Against autograd on the doubled model, in which the halves move apart."""
    loss_fn, targets, make = LOSSES[name]
    batches = [(_normal(size, WIDTH), targets(size)) for size in sizes]
    traced = fxgrow.trace(Stepping(make()), batches[0][0], check=False).train()
    doubled = InsertHalfSteps({"block.fc1": tuple(range(HIDDEN))})(traced).graph_module.train()
    weights = {name: parameter.detach() for name, parameter in doubled.named_parameters()}
    first, second = "block.fc1.weight", "block.half_0.fc1.weight"

    def objective(apart: Tensor) -> Tensor:
        moved = {**weights, first: weights[first] + apart, second: weights[second] - apart}
        outputs = [(torch.func.functional_call(doubled, moved, (x,)), target, len(x)) for x, target in batches]
        return torch.stack([loss_fn(output, target) * (n / sum(sizes)) for output, target, n in outputs]).sum()

    def scored(score: str) -> Tensor:
        return analyze(traced, loss_fn, batches, score=score, sites=["block.fc1"], iterations=WIDTH)["block.fc1"].values

    zero = torch.zeros(HIDDEN, WIDTH, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(objective(zero), zero)
    torch.testing.assert_close(scored("half-step-gradient"), slope.norm(dim=1), rtol=1e-8, atol=1e-12)
    split = torch.linalg.eigvalsh(_splitting_matrices(doubled, loss_fn, batches))[:, 0]
    torch.testing.assert_close(scored("half-step"), split, rtol=1e-8, atol=1e-12)
    if name == "CTC":
        with pytest.raises(AnalysisError, match="no second derivative"):
            scored("half-step-hessian")
        return
    hessian = torch.autograd.functional.hessian(objective, zero.detach())
    least = torch.stack([torch.linalg.eigvalsh(hessian[i, :, i])[0] for i in range(HIDDEN)])
    torch.testing.assert_close(scored("half-step-hessian"), least, rtol=1e-8, atol=1e-12)
