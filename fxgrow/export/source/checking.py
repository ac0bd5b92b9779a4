"""Whether what was written computes what the model computes, bit for bit."""

import copy
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.errors import ExportError
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.execution.structures import flatten
from fxgrow.files.describing import describe
from fxgrow.files.retracing import example_inputs


def check_equal(graph_module: fx.GraphModule, written: nn.Module) -> None:
    """Run both on the same random inputs in eval and in train mode; neither is changed.

    Raises:
        ExportError: If they differ in one bit.
    """
    inputs = example_inputs(describe(graph_module))
    for training in (False, True):
        expected = _run(graph_module, inputs, training)
        found = _run(written, inputs, training)
        same = len(expected) == len(found) and all(map(_same, expected, found))
        if not same:
            mode = "train" if training else "eval"
            what = f"what was written for it computes something else in {mode} mode"
            raise ExportError(what, where=type(graph_module).__name__, fix="export it --to pt2 or onnx, and report it")


def _run(model: nn.Module, inputs: Any, training: bool) -> list[Tensor]:
    model = copy.deepcopy(model).cpu().train(training)
    with preserved_randomness(0), torch.no_grad():
        result = model(*copy.deepcopy(inputs.args), **copy.deepcopy(inputs.kwargs))
    return [tensor for _, tensor in flatten(result)]


def _same(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())  # NaN beside NaN, and nowhere else
