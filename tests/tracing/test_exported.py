"""torch.export programs, the second door."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.graph.memory import overwrites
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.record.record import record_of


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)
        self.register_buffer("shift", torch.ones(3), persistent=False)

    def forward(self, batch: dict[str, Tensor], scale: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.stem(batch["image"])).relu_().mean((2, 3))
        return {"logits": self.head(self.drop(x)) * scale + self.shift, "features": x}


def inputs() -> tuple[Any, ...]:
    return {"image": torch.randn(3, 2, 5, 5)}, torch.ones(3, 3)


@pytest.fixture(params=["train", "eval"])
def program(request: pytest.FixtureRequest) -> torch.export.ExportedProgram:
    return torch.export.export(Model().train(request.param == "train"), inputs())


def test_an_exported_program_becomes_a_plain_graph_module(program: torch.export.ExportedProgram):
    traced = fxgrow.trace(program, inputs())
    assert [node.target for node in traced.graph.find_nodes(op="placeholder")] == ["batch", "scale"]
    assert list(traced.state_dict()) == list(Model().state_dict())
    assert set(fxgrow.find_sites(traced)) == {"stem", "head"}
    assert set(traced(*inputs())) == {"logits", "features"}


def test_its_mode_stays_and_the_record_says_so(program: torch.export.ExportedProgram):
    traced = fxgrow.trace(program, inputs())
    values = inputs()
    for mode in (True, False):
        traced.train(mode)
        torch.manual_seed(0)
        mine = traced(*values)["logits"]
        torch.manual_seed(0)
        torch.testing.assert_close(mine, program.module()(*values)["logits"])
    assert "stays in the mode" in record_of(traced).trace_notes[0]


def test_a_dynamic_batch_stays_dynamic():
    batch = torch.export.Dim("batch")
    program = torch.export.export(nn.Linear(4, 2), (torch.randn(3, 4),), dynamic_shapes=({0: batch},))
    assert fxgrow.trace(program, torch.randn(3, 4))(torch.randn(7, 4)).shape == (7, 2)


def test_operations_in_place_are_normalised_so_that_what_precedes_them_can_grow():
    torch.manual_seed(0)
    act = nn.ReLU(inplace=True)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), act, nn.Conv2d(4, 2, 1), nn.ReLU6(inplace=True))
    x = torch.randn(2, 3, 6, 6)
    traced = fxgrow.trace(torch.export.export(model.eval(), (x,)), x)
    assert not overwrites(traced)
    grown = InsertPseudoLayers({"0": (1,), "3": (0, 1)}, operator="branch")(traced).graph_module
    torch.testing.assert_close(grown(x), model(x), rtol=0, atol=1e-6)


def test_a_value_that_dropout_may_have_passed_on_is_not_taken_for_new_memory():
    class Shared(nn.Module):
        def forward(self, x):
            y = torch.sin(x)
            z = torch.nn.functional.dropout(y, training=False)
            return y.mul_(2) + z

    x = torch.randn(3)
    traced = fxgrow.trace(torch.export.export(Shared(), (x,)), x)
    torch.testing.assert_close(traced(x), Shared()(x))
