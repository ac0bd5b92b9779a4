"""An inserted block is a copy that is the identity at insertion, and trains."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.errors import PassError
from fxgrow.execution.shapes import propagate_shapes
from fxgrow.passes import parse
from fxgrow.passes.add_residual_edge import AddResidualEdge
from fxgrow.passes.functionalize_inplace import FunctionalizeInplace
from fxgrow.passes.insert_block import InsertBlock
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of
from fxgrow.testing import Draws, check_pass, sample_models


def traced(name: str) -> torch.fx.GraphModule:
    model, inputs = sample_models()[name].make(dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return fxgrow.trace(model, inputs)


class Block(nn.Module):
    """A block with a scaled residual branch that ends in a norm, or with none."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.fc1, self.fc2, self.norm = nn.Linear(6, 9), nn.Linear(9, 6), nn.LayerNorm(6)
        self.scale, self.residual = nn.Parameter(torch.full((6,), 0.5)), residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.norm(self.fc2(F.gelu(self.fc1(x))))
        return x + self.scale * branch if self.residual else self.scale * branch


def stack(residual: bool) -> torch.fx.GraphModule:
    torch.manual_seed(0)
    model = nn.Sequential(Block(residual), Block(residual), nn.Linear(6, 3)).double()
    return fxgrow.trace(model, torch.randn(4, 6, dtype=torch.float64))


@pytest.mark.parametrize(("name", "block"), [("vit", "blocks.1"), ("resnet", "blocks.0"), ("mlp", "1")])
def test_it_keeps_what_a_pass_promises(name: str, block: str) -> None:
    check_pass(InsertBlock(block), traced(name))


@pytest.mark.parametrize("residual", [True, False])
def test_blocks_with_and_without_a_residual_branch(residual: bool) -> None:
    result = check_pass(InsertBlock("0"), stack(residual)).graph_module
    names = {name for name, _ in result.named_parameters()}
    assert ("3_gate" in names) is not residual


def test_the_copy_of_a_block_with_a_stem_before_its_number_takes_the_next_number() -> None:
    model = nn.Sequential(OrderedDict((f"layer_{index}", Block(residual=True)) for index in range(2))).double()
    before = fxgrow.trace(model, torch.randn(4, 6, dtype=torch.float64))
    after = InsertBlock("layer_0")(before).graph_module
    assert {name.partition(".")[0] for name, _ in after.named_parameters()} == {"layer_0", "layer_1", "layer_2"}


def test_the_copy_stands_behind_its_block_with_copied_weights_and_zeroed_ends() -> None:
    before = traced("vit")
    after = InsertBlock("blocks.0")(before).graph_module
    zeroed = {f"blocks.2.{name}" for name in ("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias")}
    for name, parameter in after.get_submodule("blocks.2").named_parameters(prefix="blocks.2"):
        source = before.get_parameter(name.replace("blocks.2", "blocks.0"))
        expected = torch.zeros_like(source) if name in zeroed else source
        assert torch.equal(parameter, expected), name
        assert parameter is not source
    order = [str(node.target) for node in after.graph.nodes if node.op == "call_module"]
    fc1 = [path for path in order if path.endswith("mlp.fc1")]
    assert fc1 == ["blocks.0.mlp.fc1", "blocks.2.mlp.fc1", "blocks.1.mlp.fc1"]


def test_a_residual_block_with_batch_norm_ends_in_a_zero_norm() -> None:
    after = InsertBlock("blocks.0")(traced("resnet")).graph_module
    assert not after.get_parameter("blocks.2.bn2.weight").any()
    assert not after.get_parameter("blocks.2.bn2.bias").any()
    assert after.get_parameter("blocks.2.conv2.weight").any()


@pytest.mark.parametrize("residual", [True, False])
def test_every_new_parameter_moves_within_three_steps(residual: bool) -> None:
    before = stack(residual)
    optimizer = torch.optim.AdamW(before.parameters(), lr=1e-2, weight_decay=0.0)
    after = fxgrow.insert_block(before, after="0", optimizer=optimizer)
    start = {name: p.detach().clone() for name, p in fxgrow.new_parameters(after).items()}
    for _ in range(3):
        optimizer.zero_grad()
        after(torch.randn(8, 6, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
    assert all(not torch.equal(p, start[name]) for name, p in fxgrow.new_parameters(after).items())


def test_the_copy_joins_the_groups_of_its_original() -> None:
    before = traced("vit")
    plain, decayed = ([p for p in before.parameters() if (p.dim() > 1) is matrix] for matrix in (False, True))
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": plain, "weight_decay": 0.0}])
    after = fxgrow.insert_block(before, after=["blocks.0", "blocks.1"], optimizer=optimizer)
    new = fxgrow.new_parameters(after)
    assert {name.split(".")[1] for name in new} == {"2", "3"}
    for name, parameter in new.items():
        group = optimizer.param_groups[0 if parameter.dim() > 1 else 1]
        assert sum(parameter is held for held in group["params"]) == 1, name


def test_the_record_is_consistent_and_replays() -> None:
    before = traced("vit")
    after = fxgrow.insert_block(before, after="blocks.1")
    record = record_of(after)
    (event,) = record.history
    assert event.parameters_after - event.parameters_before == event.growths[0].parameters
    assert (event.growths[0].kind, event.growths[0].path) == ("block", "blocks.2")
    assert digest(parse(record.edits[0])(before).graph_module) == digest(after)


def test_pseudo_layers_inside_are_copied_and_tied_weights_stay_tied() -> None:
    grown = InsertPseudoLayers({"0.fc1": (0, 3)}, "gated")(stack(residual=True)).graph_module
    after = check_pass(InsertBlock("0"), grown).graph_module
    assert after.get_submodule("3.fc1_pseudo_0.branch") is not after.get_submodule("0.fc1_pseudo_0.branch")
    assert max(fxgrow.depth_map(after)["3.fc1"]) == 1


def test_blocks_compile_as_pieces_of_their_own() -> None:
    after = fxgrow.insert_block(traced("vit"), after="blocks.0")
    assert "blocks.2" in fxgrow.compile(after, backend="eager").pieces


@pytest.mark.parametrize(
    ("name", "block", "message"),
    [
        ("resnet", "blocks.1", "no value of its output's shape enters it"),
        ("vit", "blocks.9", "no operation of the graph belongs to"),
        ("attention", "head", "no value of its output's shape enters it"),
    ],
)
def test_what_cannot_be_copied_is_refused(name: str, block: str, message: str) -> None:
    with pytest.raises(PassError, match=message):
        InsertBlock(block)(traced(name))


def test_only_parameters_of_the_copy_are_zeroed() -> None:
    """The branch of the copied block carries, beside its norm, what a norm outside of it made."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)).double()
    graph_module = fxgrow.trace(model, torch.randn(3, 4, dtype=torch.float64))
    graph_module = InsertBlock("0")(graph_module).graph_module
    graph_module = AddResidualEdge("0", "2")(graph_module).graph_module
    with torch.no_grad():
        for parameter in graph_module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    check_pass(InsertBlock("2"), graph_module)
    assert bool(model[0].weight.all())


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower, self.head = nn.Sequential(nn.Linear(6, 6), nn.GELU()), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.tower(x) + self.tower(-x))


def test_a_block_that_is_called_twice_is_refused_with_how_often() -> None:
    traced = fxgrow.trace(Shared(), torch.linspace(-1, 1, 12).reshape(2, 6))
    with pytest.raises(
        PassError, match=r"tower: tower\.1 \(2 calls\) of it is read outside, and not one value; name a"
    ):
        fxgrow.insert_block(traced, after="tower")


def test_a_block_that_overwrites_what_enters_it_is_copied_once_it_no_longer_does() -> None:
    graph_module = torch.fx.symbolic_trace(nn.Sequential(nn.LayerNorm(4), nn.ReLU(inplace=True)).double())
    inputs = Draws().normal(3, 4)
    propagate_shapes(graph_module, inputs)
    with pytest.raises(PassError, match="1: 0 is overwritten in place by a later operation; run the pass functional"):
        InsertBlock("1")(graph_module)
    functional = FunctionalizeInplace()(graph_module).graph_module
    fxgrow.verify(graph_module, InsertBlock("1")(functional).graph_module, inputs)
    fxgrow.verify(graph_module, InsertBlock("0")(graph_module).graph_module, inputs)
