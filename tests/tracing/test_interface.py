"""A traced model takes and returns what the model does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn

import fxgrow
from fxgrow.record.record import record_of
from tests.tracing.models import sample


class Arguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(10, 4), nn.Linear(4, 4)

    def forward(self, ids: Tensor, mask: Tensor | None = None, scale: float = 2.0, *, flag: bool = False) -> Tensor:
        x = self.embedding(ids) * scale
        if mask is not None:
            x = x * mask.unsqueeze(-1)
        return self.linear(x).mean(1) + (1 if flag else 0)


def placeholders(traced: fx.GraphModule) -> list[Any]:
    return [node.target for node in traced.graph.find_nodes(op="placeholder")]


def test_arguments_that_are_left_out_are_fixed_at_their_defaults():
    traced = fxgrow.trace(Arguments(), torch.tensor([[1, 2, 3], [4, 5, 6]]))
    assert placeholders(traced) == ["ids"]


def test_keyword_inputs_become_placeholders_and_plain_values_are_fixed():
    model = Arguments()
    inputs = {"ids": torch.tensor([[1, 2, 3], [4, 5, 9]]), "mask": torch.ones(2, 3), "flag": True}
    traced = fxgrow.trace(model, inputs)
    assert placeholders(traced) == ["ids", "mask", "flag"]
    assert record_of(traced).trace_notes == ("argument flag is fixed at True",)
    torch.testing.assert_close(traced(**inputs), model(**inputs))
    torch.testing.assert_close(traced(ids=inputs["ids"], mask=inputs["mask"]), model(**inputs))


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclass
class Output:
    logits: Tensor
    features: Tensor | None = None


class Structured(nn.Module):
    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.wrap = nn.Linear(4, 2), wrap

    def forward(self, batch: dict[str, Any], *extra: Tensor, **more: Tensor) -> Any:
        x = batch["x"]
        if "pair" in batch:
            left, right = batch["pair"]
            x = x + left - right
        y = self.linear(x)
        return self.wrap(y + sum(extra), x + more["shift"])


@pytest.mark.parametrize(
    "wrap",
    [lambda y, x: (y, x), lambda y, x: {"logits": y, "x": [x]}, Pair, Output],
    ids=["tuple", "dict", "named", "data"],
)
def test_structured_inputs_and_outputs_keep_their_structure(wrap: Callable[[Tensor, Tensor], Any]):
    model = Structured(wrap)
    x = sample()
    inputs = {"batch": {"x": x, "pair": (x, x)}, "shift": x}
    traced = fxgrow.trace(model, inputs)
    expected, found = model(**inputs), traced(**inputs)
    assert type(found) is type(expected)
    fxgrow.verify(model, traced, inputs)


def test_several_positional_inputs():
    traced = fxgrow.trace(nn.Bilinear(4, 4, 2), (sample(), sample()))
    assert placeholders(traced) == ["input1", "input2"]
