"""Every operator is zero at insertion, costs what it says, and can train."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxgrow.errors import PlanError
from fxgrow.operators import Attachment, PseudoLayer, available_operators, find_operator, register_operator
from fxgrow.operators.base import check_trainable
from fxgrow.primitives.activations import EvenGELU, ResidualGELU
from fxgrow.primitives.linear_map import LinearMap
from fxgrow.primitives.residual import add_rows

MODULES = {
    "linear": nn.Linear(6, 8),
    "linear without bias": nn.Linear(6, 8, bias=False),
    "convolution": nn.Conv2d(6, 8, 3, stride=2, padding=1),
    "grouped convolution": nn.Conv2d(6, 8, 3, groups=2, dilation=2),
    "depthwise convolution": nn.Conv2d(6, 6, 3, groups=6, padding="same"),
    "reflecting convolution": nn.Conv1d(6, 8, 3, padding=1, padding_mode="reflect"),
    "transposed convolution": nn.ConvTranspose2d(6, 8, 2, stride=2, groups=2),
    "volume": nn.Conv3d(6, 8, 2),
}
ROWS = (0, 2, 5)


def attach(module: nn.Module, *, seed: int = 0, directions: torch.Tensor | None = None) -> Attachment:
    linear = LinearMap.of_module(module)
    return Attachment(
        map=linear,
        rows=ROWS,
        weight=linear.to_rows(module.weight.detach()),
        bias=None if module.bias is None else module.bias.detach(),
        generator=torch.Generator().manual_seed(seed),
        directions=directions,
    )


def value_for(operator: type[PseudoLayer], module: nn.Module) -> torch.Tensor:
    x = torch.randn(2, 6, *[5] * LinearMap.of_module(module).spatial)
    return x if operator.reads == "input" else module(x)


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES.keys())
@pytest.mark.parametrize("name", available_operators())
def test_addition_is_exactly_zero_and_has_one_channel_per_row(name: str, module: nn.Module) -> None:
    pseudo_layer = find_operator(name)(attach(module))
    x = value_for(type(pseudo_layer), module)
    addition = pseudo_layer(x)
    output = x if pseudo_layer.reads == "output" else module(x)
    channel_dim = LinearMap.of_module(module).channel_dim
    expected = list(output.shape)
    expected[channel_dim] = len(ROWS)
    assert list(addition.shape) == expected
    assert torch.equal(addition, torch.zeros_like(addition))


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES.keys())
@pytest.mark.parametrize("name", available_operators())
def test_cost_is_what_the_operator_says(name: str, module: nn.Module) -> None:
    operator = find_operator(name)
    pseudo_layer = operator(attach(module))
    counted = sum(parameter.numel() for parameter in pseudo_layer.parameters())
    assert counted == operator.parameter_count(LinearMap.of_module(module), len(ROWS))


@pytest.mark.parametrize("name", available_operators())
def test_every_parameter_moves_by_the_second_step(name: str) -> None:
    module = MODULES["linear"]
    pseudo_layer = find_operator(name)(attach(module))
    before = {key: value.detach().clone() for key, value in pseudo_layer.named_parameters()}
    optimizer = torch.optim.SGD(pseudo_layer.parameters(), lr=0.1)
    x, target = value_for(type(pseudo_layer), module).detach(), torch.randn(2, len(ROWS))
    for _ in range(2):
        optimizer.zero_grad()
        (pseudo_layer(x) - target).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(value, before[key]) for key, value in pseudo_layer.named_parameters())


def test_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    module, state = MODULES["linear"], torch.get_rng_state()
    first, second = (find_operator("serial")(attach(module, seed=3)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.fc1.weight, second.fc1.weight)
    assert not torch.equal(first.fc1.weight, find_operator("serial")(attach(module, seed=4)).fc1.weight)


def test_gated_and_signed_start_along_the_given_directions() -> None:
    module, directions = MODULES["linear"], torch.eye(6)[:3]
    for name, child in (("gated", "branch"), ("signed", "plus")):
        weight = find_operator(name)(attach(module, directions=directions)).get_submodule(child).weight
        torch.testing.assert_close(weight / weight.norm(dim=1, keepdim=True), directions)


@pytest.mark.parametrize("scale", [0.0, 1e-8])
def test_gated_can_train_beside_a_weight_that_is_nearly_zero(scale: float) -> None:
    module = nn.Linear(6, 8)
    nn.init.constant_(module.weight, scale)
    check_trainable(find_operator("gated")(attach(module)), torch.linspace(-1, 1, 6)[None])


def test_paper_halves_are_a_fifth_of_the_site_and_cancel() -> None:
    module = MODULES["linear"]
    paper = find_operator("paper")(attach(module))
    torch.testing.assert_close(paper.plus.weight, 0.2 * module.weight[list(ROWS)])
    torch.testing.assert_close(paper.minus.bias, -0.2 * module.bias[list(ROWS)])


def test_paper_is_branch_at_twice_the_learning_rate() -> None:
    """Section 4 of the method: the published operator depends on A+ + A- only."""
    module = MODULES["linear"].double()
    paper, branch = (find_operator(name)(attach(module)).double() for name in ("paper", "branch"))
    slow, fast = torch.optim.SGD(paper.parameters(), lr=0.01), torch.optim.SGD(branch.parameters(), lr=0.02)
    x, target = torch.randn(32, 6, dtype=torch.float64), torch.randn(32, len(ROWS), dtype=torch.float64)
    for _ in range(50):
        for layer, optimizer in ((paper, slow), (branch, fast)):
            optimizer.zero_grad()
            (layer(x) - target).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(paper(x), branch(x), rtol=1e-12, atol=1e-12)
    MODULES["linear"].float()


def test_nonlinearities_have_the_derivatives_that_the_method_states() -> None:
    zero = torch.zeros((), dtype=torch.float64)
    curvature = (2 / torch.pi) ** 0.5
    for activation, slope, bend in ((ResidualGELU(), 1.5, curvature), (EvenGELU(), 0.0, 2 * curvature)):
        assert activation(zero).item() == 0
        assert torch.func.grad(activation)(zero).item() == pytest.approx(slope, abs=1e-12)
        assert torch.func.grad(torch.func.grad(activation))(zero).item() == pytest.approx(bend, abs=1e-12)


def test_add_rows_adds_to_the_named_channels_only_in_the_output_dtype() -> None:
    output, addition = torch.zeros(2, 4, 3, dtype=torch.bfloat16), torch.ones(2, 2, 3)
    total = add_rows(output, addition, torch.tensor([1, 3]), -2)
    assert total.dtype == torch.bfloat16
    assert total.sum(dim=(0, 2)).tolist() == [0, 6, 0, 6]
    assert torch.equal(add_rows(output, torch.ones(2, 4, 3), None, -2), torch.ones_like(output))


@pytest.mark.parametrize("rows", [None, [1, 3]])
def test_add_rows_keeps_the_memory_layout_so_that_a_dropout_behind_it_draws_the_same_mask(
    rows: list[int] | None,
) -> None:
    output = torch.randn(2, 4, 5, 6).to(memory_format=torch.channels_last)
    addition = torch.zeros(2, 4 if rows is None else 2, 5, 6)
    total = add_rows(output, addition, None if rows is None else torch.tensor(rows), -3)
    assert total.stride() == output.stride()
    torch.manual_seed(0)
    expected = F.dropout(output, 0.5)
    torch.manual_seed(0)
    assert torch.equal(F.dropout(total, 0.5), expected)


class Dead(PseudoLayer):
    name = "dead"
    reads = "input"

    def __init__(self, attachment: Attachment) -> None:
        super().__init__(attachment)
        self.fc1, self.fc2 = nn.Linear(6, 3), nn.Linear(3, 3, bias=False)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @staticmethod
    def parameter_count(site: LinearMap, rows: int) -> int:
        return 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.nn.functional.gelu(self.fc1(x)))


def test_a_pseudo_layer_that_can_never_train_is_refused() -> None:
    with pytest.raises(PlanError, match=r"'dead'.*could never train"):
        check_trainable(Dead(attach(MODULES["linear"])), torch.ones(1, 6))


def test_unknown_operator_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(PlanError, match="operator 'seral': no such operator; did you mean 'serial'"):
        find_operator("seral")


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(PlanError, match=r"belongs to fxgrow.operators.serial.Serial"):
        register_operator(type("Other", (Dead,), {"name": "serial"}))
