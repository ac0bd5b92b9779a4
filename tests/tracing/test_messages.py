"""A refusal names the cause: the module, the line of its code, the condition, and what can be traced instead."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import TraceError
from fxgrow.record.record import record_of
from fxgrow.testing import Draws

X = Draws(dtype=torch.float32).normal(3, 4)


class Linears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)), nn.Linear(4, 2)


class OnValues(Linears):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)) if x.mean() > -9 else x


class OnTwoInputs(Linears):
    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        h = self.head(self.body(x * gate))
        while (x + gate).max() > 1e9:
            h = h / 2
        return h


class OnItem(Linears):
    def forward(self, x: Tensor) -> Tensor:
        if x.max().item() > 1e9:
            return x
        return self.head(self.body(x))


class OnBatch(Linears):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([self.body(row) for row in x]))


class OutOfTorch(Linears):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)) + float(x.detach().numpy().mean())


class OnAttribute(Linears):
    """Asks for what only plain tensors of its own have."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)) * {Tensor: 1.0}[type(x)]


@pytest.mark.parametrize(
    ("model", "inputs", "condition", "line"),
    [
        (OnValues, (X,), "its control flow depends on the values of x", "if x.mean() > -9 else x"),
        (OnTwoInputs, (X, X), "its control flow depends on the values of gate, x", "while (x + gate).max() > 1e9:"),
        (OnItem, (X,), "its control flow depends on the values of x", "if x.max().item() > 1e9:"),
        (OnBatch, (X,), "its control flow depends on the size of the batch", "in x]))"),
        (OutOfTorch, (X,), "it takes the values of x out of PyTorch, by numpy()", "float(x.detach().numpy().mean())"),
        (OnAttribute, (X,), "KeyError", "return self.head(self.body(x)) * {Tensor: 1.0}[type(x)]"),
    ],
)  # fmt: skip
def test_a_refusal_names_condition_line_and_what_to_trace_instead(
    model: Callable[[], nn.Module], inputs: Any, condition: str, line: str
):
    with pytest.raises(TraceError) as caught:
        fxgrow.trace(model(), inputs)
    message = str(caught.value)
    assert message.startswith(f"{model.__name__}: cannot be traced: {condition}")
    assert re.search(r"test_messages\.py:\d+, .*" + re.escape(line), message)
    assert "; trace body, a submodule of it with 88% of its parameters, and put that back" in message
    assert "%" not in message.replace("88%", "")
    assert "\n" not in message


class WantsLabels(Linears):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise ValueError("labels are missing")
        return self.head(self.body(x))


def test_a_refusal_names_the_mode_in_which_the_model_was_not_given():
    message = "WantsLabels: cannot be traced in train mode, which a graph has too: ValueError labels are missing"
    with pytest.raises(TraceError, match=message):
        fxgrow.trace(WantsLabels().eval(), X)


class Unfinished(Linears):
    def forward(self, x: Tensor) -> Tensor:
        return self.tail(x)


def test_a_model_that_does_not_run_at_all_is_to_be_mended_first():
    with pytest.raises(TraceError, match=r"no attribute 'tail'; give inputs .* that it takes, or mend it first"):
        fxgrow.trace(Unfinished(), X)


def test_a_note_names_the_line_too():
    (note,) = record_of(fxgrow.trace(nn.Sequential(OnValues(), nn.Linear(2, 2)), X)).trace_notes
    assert re.match(
        r"0 stays whole, with \d+\.\d% of the parameters: cannot be traced: its control flow depends on", note
    )
    assert "on the values of input (" in note
    assert "test_messages.py:" in note


def test_another_dtype_of_the_inputs_is_named():
    with pytest.raises(TraceError, match=r"\(the inputs are torch.float64, and its parameters torch.float32\)"):
        fxgrow.trace(nn.Linear(4, 4), X.double())


def test_a_part_that_cannot_be_traced_is_not_named():
    with pytest.raises(TraceError, match=r"trace inner\.body, a submodule of it with 88% of its parameters"):
        fxgrow.trace(Outer(), X)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = OnValues()

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y if y.sum() > -1e9 else -y
