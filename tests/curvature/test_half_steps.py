"""Scores of half-steps are what derivatives of the doubled model are, computed by brute force in double precision."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, vmap

import fxgrow
from fxgrow.passes.insert_half_steps import InsertHalfSteps

WIDTH, HIDDEN = 4, 3
FIRST, SECOND = "blocks.0.fc1.weight", "blocks.0.half_0.fc1.weight"
TARGET = torch.arange(10) % 3
BATCHES = ((0, 6), (6, 10))


class Block(nn.Module):
    """A norm and an MLP on a residual stream."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.norm, self.size = nn.LayerNorm(WIDTH), size
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.size * self.fc2(F.gelu(self.fc1(self.norm(x))))


class Model(nn.Module):
    """Two such blocks on sequences."""

    def __init__(self, size: float = 1.0) -> None:
        super().__init__()
        self.start, self.head = nn.Linear(2, WIDTH), nn.Linear(WIDTH, 3)
        self.blocks = nn.ModuleList([Block(size) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def make(size: float = 1.0) -> tuple[fx.GraphModule, Tensor]:
    draw = np.random.default_rng(3)
    model = Model(size).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(0.7 * draw.standard_normal(parameter.shape)) + (parameter.dim() == 1))
    x = torch.from_numpy(draw.standard_normal((10, 5, 2)))
    return fxgrow.trace(model, x), x


def doubled(traced: fx.GraphModule) -> fx.GraphModule:
    every = tuple(range(HIDDEN))
    return InsertHalfSteps({"blocks.0.fc1": every, "blocks.1.fc1": every})(traced).graph_module


def batches(x: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(x[first:last], TARGET[first:last]) for first, last in BATCHES]


def loss_apart(traced: fx.GraphModule, x: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the loss of the doubled model as a function of how far the halves of block 0 are apart."""
    whole = doubled(traced)
    weights = {name: parameter.detach() for name, parameter in whole.named_parameters()}

    def loss(apart: Tensor) -> Tensor:
        moved = {**weights, FIRST: weights[FIRST] + apart, SECOND: weights[SECOND] - apart}
        return F.cross_entropy(functional_call(whole, moved, (x,)), target)

    return loss


def test_the_gradient_score_is_the_difference_of_the_halves_gradients() -> None:
    traced, x = make()
    scores = fxgrow.analyze(traced, F.cross_entropy, batches(x), score="half-step-gradient")["blocks.0.fc1"]
    zero = torch.zeros(HIDDEN, WIDTH, dtype=torch.float64)
    slope = grad(loss_apart(traced, x, TARGET))(zero)
    torch.testing.assert_close(scores.values, slope.norm(dim=1), rtol=1e-10, atol=1e-12)
    halves = [grad(loss_apart(traced, *batch))(zero) for batch in batches(x)]
    unit = [half / half.norm(dim=1, keepdim=True) for half in halves]
    crossed = [(unit[1] * halves[0]).sum(1), (unit[0] * halves[1]).sum(1)]
    assert scores.held_out is not None
    lowest, highest = torch.minimum(*crossed), torch.maximum(*crossed)
    assert bool(((scores.held_out >= lowest - 1e-12) & (scores.held_out <= highest + 1e-12)).all())


def splitting_matrices(traced: fx.GraphModule, x: Tensor) -> Tensor:
    """Return S1 + S2 of block 0 by brute force: the Hessian of what the halves give out, times the loss's gradient."""
    whole = doubled(traced)
    values: dict[str, Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Tensor:
            value = super().run_node(n)
            values[n.name] = value
            if n.target is torch._C._nn.gelu:
                value.retain_grad()
            return value

    F.cross_entropy(Recorder(whole).run(x), TARGET).backward()
    total = torch.zeros(HIDDEN, WIDTH, WIDTH, dtype=torch.float64)
    for node in whole.graph.nodes:
        if node.target not in ("blocks.0.fc1", "blocks.0.half_0.fc1"):
            continue
        read, activation = values[node.args[0].name].detach(), values[next(iter(node.users)).name]
        layer = whole.get_submodule(node.target)
        for unit in range(HIDDEN):

            def given_out(row: Tensor, read=read, layer=layer, unit=unit, to=activation.grad) -> Tensor:
                return (to[..., unit] * F.gelu(read @ row + layer.bias[unit].detach())).sum()

            total[unit] += hessian(given_out)(layer.weight[unit].detach())
    return total


def test_the_score_is_the_least_eigenvalue_of_both_halves_splitting_matrices() -> None:
    traced, x = make()
    scores = fxgrow.analyze(traced, F.cross_entropy, batches(x), score="half-step", settled=None)["blocks.0.fc1"]
    matrices = splitting_matrices(traced, x)
    torch.testing.assert_close(scores.values, torch.linalg.eigvalsh(matrices)[:, 0], rtol=1e-10, atol=1e-12)
    along = torch.einsum("ud,ude,ue->u", scores.eigenvectors, matrices, scores.eigenvectors)
    torch.testing.assert_close(along, scores.values, rtol=1e-10, atol=1e-12)
    assert bool((scores.stderr > 0).all())


def exact_curvature(traced: fx.GraphModule, x: Tensor) -> Tensor:
    """Return d2L/de2 of every unit of block 0, ``(units, features, features)``."""
    zero = torch.zeros(HIDDEN, WIDTH, dtype=torch.float64)
    whole = hessian(loss_apart(traced, x, TARGET))(zero)
    return torch.stack([whole[unit, :, unit] for unit in range(HIDDEN)])


def test_the_hessian_score_is_the_whole_second_derivative() -> None:
    traced, x = make()
    scores = fxgrow.analyze(traced, F.cross_entropy, batches(x), score="half-step-hessian", settled=None)
    expected = torch.linalg.eigvalsh(exact_curvature(traced, x))[:, 0]
    torch.testing.assert_close(scores["blocks.0.fc1"].values, expected, rtol=1e-10, atol=1e-12)


def test_the_splitting_matrices_are_all_of_the_curvature_as_branches_become_small() -> None:
    rest = []
    for size in (1e-1, 1e-2, 1e-3):
        traced, x = make(size)
        exact, split = exact_curvature(traced, x), splitting_matrices(traced, x)
        rest.append(float((exact - split).norm() / split.norm()))
    assert rest[0] > 5 * rest[1] > 25 * rest[2]
    assert rest[2] < 0.01


def test_halves_that_start_apart_along_the_vector_change_the_loss_as_the_curvature_says() -> None:
    traced, x = make()
    loss, exact = loss_apart(traced, x, TARGET), exact_curvature(traced, x)
    _, vectors = torch.linalg.eigh(exact)
    zero = torch.zeros(HIDDEN, WIDTH, dtype=torch.float64)
    steps = [1e-3 * F.one_hot(torch.tensor(unit), HIDDEN)[:, None] * vectors[:, :, 0] for unit in range(HIDDEN)]
    even = torch.stack([(loss(step) + loss(-step)) / 2 - loss(zero) for step in steps])
    expected = 0.5e-6 * torch.stack([exact[unit] @ vectors[unit, :, 0] @ vectors[unit, :, 0] for unit in range(HIDDEN)])
    torch.testing.assert_close(even, expected, rtol=1e-3, atol=1e-12)


def test_each_sample_by_itself_gives_the_same_mean() -> None:
    traced, x = make()
    together = fxgrow.analyze(traced, F.cross_entropy, batches(x), score="half-step-gradient")["blocks.1.fc1"]
    zero = torch.zeros(HIDDEN, WIDTH, dtype=torch.float64)
    whole = doubled(traced)
    weights = {name: parameter.detach() for name, parameter in whole.named_parameters()}
    pair = ("blocks.1.fc1.weight", "blocks.1.half_0.fc1.weight")

    def loss(apart: Tensor, sample: Tensor, label: Tensor) -> Tensor:
        moved = {**weights, pair[0]: weights[pair[0]] + apart, pair[1]: weights[pair[1]] - apart}
        return F.cross_entropy(functional_call(whole, moved, (sample[None],)), label[None])

    slopes = vmap(grad(loss), (None, 0, 0))(zero, x, TARGET)
    torch.testing.assert_close(together.values, slopes.mean(0).norm(dim=1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("score", ["half-step", "half-step-gradient", "half-step-hessian"])
def test_sites_without_units_are_refused_and_nothing_is_changed(score: str) -> None:
    traced, x = make()
    before = {name: parameter.clone() for name, parameter in traced.named_parameters()}
    scores = fxgrow.analyze(traced, F.cross_entropy, batches(x), score=score, iterations=2)
    assert set(scores) == {"blocks.0.fc1", "blocks.1.fc1"}
    assert scores.refusals["head"] == "it lies in no residual branch"
    assert all(torch.equal(before[name], parameter) for name, parameter in traced.named_parameters())
    assert not any("half" in name for name, _ in traced.named_modules())


def test_a_model_without_residual_branches_has_no_such_score() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.GELU(), nn.Linear(4, 3))
    x = torch.zeros(10, 2)
    scores = fxgrow.analyze(fxgrow.trace(model, x), F.cross_entropy, [(x, TARGET)], score="half-step")
    assert len(scores) == 0
    assert set(scores.refusals) == {"0", "2"}


def test_a_graph_without_shapes_takes_those_of_the_data() -> None:
    traced, x = make()
    bare = fx.GraphModule(traced, fx.symbolic_trace(traced).graph)
    assert not any("tensor_meta" in node.meta for node in bare.graph.nodes)
    with_shapes, without = (
        fxgrow.analyze(model, F.cross_entropy, batches(x), score="half-step", settled=None) for model in (traced, bare)
    )
    for site, scores in with_shapes.items():
        torch.testing.assert_close(without[site].values, scores.values, rtol=1e-10, atol=1e-12)
