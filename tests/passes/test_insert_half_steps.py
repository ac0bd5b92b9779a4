"""Chosen hidden units and heads get a half-step of their own, in a thin branch behind the branch that they are in."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PassError, VerificationError
from fxgrow.passes.insert_half_steps import InsertHalfSteps
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.record import record_of
from fxgrow.testing import check_pass
from fxgrow.widths.branch_units import find_branch_units
from tests.passes.unit_models import HEADS, HIDDEN, WIDTH, Block, filled, make, shares


def by_hand(block: Block, x: Tensor, units: Sequence[int], heads: Sequence[int]) -> Tensor:
    own_heads, thin_heads = shares(HEADS, heads)
    own_units, thin_units = shares(HIDDEN, units)
    first, second = (block.norm1, block.norm2)
    bias1, bias2 = block.end(block.proj.bias), block.end(block.fc2.bias)
    if block.layout == "parallel":
        x = x + block.mlp(second(x), own_units) + bias2 + block.attention(first(x), own_heads) + bias1
        x = x + block.attention(first(x), thin_heads)  # the branch that was named last stands in front
        return x + block.mlp(second(x), thin_units)
    before: list[Callable[[Tensor], Tensor]] = [first, second]
    after: list[Callable[[Tensor], Tensor]] = [lambda x: x, lambda x: x]
    if block.layout == "behind":
        before, after = after, before
    x = after[0](x + block.attention(before[0](x), own_heads) + bias1)
    x = after[0](x + block.attention(before[0](x), thin_heads))
    x = after[1](x + block.mlp(before[1](x), own_units) + bias2)
    return after[1](x + block.mlp(before[1](x), thin_units))


@pytest.mark.parametrize("layout", ["serial", "scaled", "gated", "parallel", "behind"])
def test_chosen_units_and_heads_make_two_steps_of_half_the_size(layout: str) -> None:
    model, traced, x = make(layout)
    before = traced(x)
    mlp = "blocks.0.gate" if layout == "gated" else "blocks.0.fc1"
    grown = check_pass(InsertHalfSteps({mlp: (1, 3, 7), "blocks.0.qkv": (1,)}), traced).graph_module
    h = by_hand(model.blocks[0], model.start(x), (1, 3, 7), (1,))
    expected = model.head(model.blocks[1](h).mean(1))
    torch.testing.assert_close(grown(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(traced(x), before)


@pytest.mark.parametrize("layout", ["serial", "gated", "parallel"])
def test_the_price_of_units_is_what_they_cost(layout: str) -> None:
    _, traced, _ = make(layout)
    for site, units in find_branch_units(traced).found.items():
        for chosen in ((0,), tuple(range(units.count))):
            grown = InsertHalfSteps({site: chosen})(traced, check=False).graph_module
            assert parameter_count(grown) - parameter_count(traced) == units.price(len(chosen))


def test_a_half_step_of_a_half_step_is_deeper_again() -> None:
    model, traced, x = make()
    once = InsertHalfSteps({"blocks.0.fc1": (1, 3, 7)})(traced).graph_module
    twice = check_pass(InsertHalfSteps({"blocks.0.half_0.fc1": (0, 2)}), once).graph_module
    assert fxgrow.depth_map(twice)["blocks.0.fc1"] == [0, 2, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0]
    assert fxgrow.depth_map(twice)["blocks.0.half_0.fc1"] == [1, 0, 1]
    block, h = model.blocks[0], model.start(x)
    h = h + block.attention(block.norm1(h)) + block.proj.bias
    for factors in ((1, 0.5, 1, 0.5, 1, 1, 1, 0.5, 1, 1, 1, 1), {1: 0.25, 3: 0.5, 7: 0.25}, {1: 0.25, 7: 0.25}):
        weights = torch.tensor([factors.get(u, 0) for u in range(HIDDEN)] if isinstance(factors, dict) else factors)
        first = not isinstance(factors, dict)
        h = h + block.mlp(block.norm2(h), weights.double()) + (block.fc2.bias if first else 0)
    torch.testing.assert_close(twice(x), model.head(model.blocks[1](h).mean(1)), rtol=1e-12, atol=1e-12)


def test_units_that_are_given_two_half_steps_one_after_the_other_count_both() -> None:
    _, traced, _ = make()
    edit = InsertHalfSteps({"blocks.1.fc1": (0, 1)})
    twice = edit(edit(traced).graph_module).graph_module
    assert [growth.path for event in record_of(twice).history for growth in event.growths] == [
        "blocks.1.half_0",
        "blocks.1.half_1",
    ]
    assert fxgrow.depth_map(twice)["blocks.1.fc1"][:3] == [2, 2, 0]


def test_depths_go_along_when_a_block_with_half_steps_is_copied() -> None:
    _, traced, _ = make()
    grown = InsertHalfSteps({"blocks.0.fc1": (4,)})(traced).graph_module
    deeper = fxgrow.deepen(grown, "blocks.0")
    assert fxgrow.depth_map(deeper)["blocks.2.fc1"] == fxgrow.depth_map(grown)["blocks.0.fc1"]
    assert deeper.get_parameter("blocks.2.half_0.fc1.weight").shape == (1, WIDTH)


def test_it_says_that_it_changes_the_function_and_verify_by_how_much() -> None:
    _, traced, _ = make()
    edit = InsertHalfSteps({"blocks.0.fc1": (0,)})
    assert not edit.preserves_function
    with pytest.raises(VerificationError, match="it differs by"):
        fxgrow.verify(traced, edit(traced).graph_module)


def test_both_halves_begin_with_fresh_moments_and_others_keep_theirs() -> None:
    _, traced, x = make()
    plain, decayed = ([p for p in traced.parameters() if (p.dim() > 1) is matrix] for matrix in (False, True))
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": plain, "weight_decay": 0.0}])
    traced(x).square().sum().backward()
    optimizer.step()
    grown = InsertHalfSteps({"blocks.0.fc1": (0, 5)})(traced, optimizer).graph_module
    groups = [{id(p) for p in group["params"]} for group in optimizer.param_groups]
    for name, parameter in grown.named_parameters():
        if "half_0" in name:
            assert id(parameter) in groups[parameter.dim() < 2]
    with_state = {name for name, parameter in grown.named_parameters() if optimizer.state.get(parameter)}
    fresh = {f"blocks.0.{name}" for name in ("norm2.weight", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")}
    assert not with_state & fresh
    assert not any("half" in name for name in with_state)
    assert {"blocks.0.qkv.weight", "blocks.0.norm1.weight", "blocks.1.fc1.weight", "head.bias"} <= with_state


def test_halves_start_apart_along_the_directions() -> None:
    _, traced, _ = make()
    along = torch.zeros(2, WIDTH, dtype=torch.float64)
    along[0, 3] = along[1, 5] = 1.0
    edit = InsertHalfSteps({"blocks.0.fc1": (2, 6)}, 0.25, {"blocks.0.fc1": along})
    grown, old = edit(traced).graph_module, traced.get_parameter("blocks.0.fc1.weight")
    change = 0.25 * along * old[[2, 6]].norm(dim=1, keepdim=True)
    torch.testing.assert_close(grown.get_parameter("blocks.0.fc1.weight")[[2, 6]], old[[2, 6]] + change)
    torch.testing.assert_close(grown.get_parameter("blocks.0.half_0.fc1.weight"), old[[2, 6]] - change)
    kept = [unit for unit in range(HIDDEN) if unit not in (2, 6)]
    assert torch.equal(grown.get_parameter("blocks.0.fc1.weight")[kept], old[kept])


def test_it_cannot_be_undone_and_says_so() -> None:
    _, traced, _ = make()
    grown = InsertHalfSteps({"blocks.0.fc1": (0,)})(traced).graph_module
    with pytest.raises(PassError, match="a grown half-step cannot be undone"):
        fxgrow.undo(grown, [0])


class Convolutions(nn.Module):
    """A block as in ConvNeXt, with a convolution in front of the units and a scale behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 4, 1), nn.Linear(4, 3)
        self.depthwise, self.norm = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.GroupNorm(1, 4)
        self.up, self.down = nn.Conv2d(4, 10, 1), nn.Conv2d(10, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        hidden = F.gelu(self.up(self.norm(self.depthwise(x))))
        return self.head((x + self.scale * self.down(hidden)).mean((2, 3)))


def test_units_of_convolutions_at_the_root_of_a_model_are_units_too() -> None:
    draw = np.random.default_rng(1)
    model, x = filled(Convolutions().double(), draw), torch.from_numpy(draw.standard_normal((2, 2, 5, 5)))
    grown = check_pass(InsertHalfSteps({"up": (0, 4, 9)}), fxgrow.trace(model, x)).graph_module
    own, thin = (share[:, None, None] for share in shares(10, (0, 4, 9)))

    def hidden(h: Tensor) -> Tensor:
        return F.gelu(model.up(model.norm(model.depthwise(h))))

    h = model.stem(x)
    h = h + model.scale * model.down(own * hidden(h))
    h = h + model.scale * F.conv2d(thin * hidden(h), model.down.weight, padding=1)
    torch.testing.assert_close(grown(x), model.head(h.mean((2, 3))), rtol=1e-12, atol=1e-12)
    assert {"half_0.depthwise.weight", "half_0.scale"} <= set(fxgrow.new_parameters(grown))
