"""Negative controls: the published width operators do not keep the function, and verification says so.

Source: arXiv 2402.12418 and its reference code. `fxgrow.widen` has the versions that do keep it.
"""

import pytest
import torch
import torch.fx as fx
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import VerificationError
from fxgrow.testing import Draws, sample_models


def traced(name: str) -> fx.GraphModule:
    model, inputs = sample_models()[name].make(dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return fxgrow.trace(model, inputs)


def overwrite(graph_module: fx.GraphModule, **values: Tensor) -> fx.GraphModule:
    with torch.no_grad():
        for name, value in values.items():
            graph_module.get_parameter(name.replace("__", ".")).copy_(value)
    return graph_module


def relative_change(before: fx.GraphModule, after: fx.GraphModule, path: str) -> float:
    """Return the change of what the module at `path` computes, relative to what it computed."""
    values: list[Tensor] = []
    shape = next(node for node in before.graph.nodes if node.op == "placeholder").meta["tensor_meta"].shape
    x = Draws().normal(*shape)
    for model in (before, after):
        handle = model.get_submodule(path).register_forward_hook(lambda _, __, output: values.append(output.detach()))
        model.eval()(x)
        handle.remove()
    return float((values[1] - values[0]).norm() / values[0].norm())


def widened_hidden_layer(before: fx.GraphModule, second: float, outgoing: float) -> fx.GraphModule:
    """Double fc1: rows 0.2 W and `second` W, whose outgoing weights are those of W and `outgoing` times those."""
    parameters = dict(before.named_parameters())
    weight, bias, out = (parameters[f"blocks.0.mlp.{name}"] for name in ("fc1.weight", "fc1.bias", "fc2.weight"))
    return overwrite(
        fxgrow.widen(before, "blocks.0.mlp.fc1", by=2 * len(bias)),
        blocks__0__mlp__fc1__weight=torch.cat((weight, 0.2 * weight, second * weight)),
        blocks__0__mlp__fc1__bias=torch.cat((bias, 0.2 * bias, second * bias)),
        blocks__0__mlp__fc2__weight=torch.cat((out, out, outgoing * out), 1),
    )


def widened_values(before: fx.GraphModule, *, interleaved: bool) -> fx.GraphModule:
    """Widen v by pairs of equal rows with opposite outgoing weights: at the end of each head, or of all heads."""
    parameters = dict(before.named_parameters())
    weight, bias, out = parameters["v.weight"], parameters["v.bias"], parameters["proj.weight"]
    rows, biases, columns = (
        weight[[0, 0, 4, 4]],
        bias[[0, 0, 4, 4]],
        out[:, [0, 0, 4, 4]] * torch.tensor([1, -1, 1, -1]),
    )
    place = torch.tensor([0, 1, 2, 3, 8, 9, 4, 5, 6, 7, 10, 11]) if interleaved else torch.arange(12)
    return overwrite(
        fxgrow.widen(before, "v", by=2),
        v__weight=torch.cat((weight, rows))[place],
        v__bias=torch.cat((bias, biases))[place],
        proj__weight=torch.cat((out, columns), 1)[:, place],
    )


def test_opposite_rows_with_equal_outgoing_weights_change_the_function() -> None:
    before = traced("vit")
    after = widened_hidden_layer(before, -0.2, 1.0)
    with pytest.raises(VerificationError):
        fxgrow.verify(before, after)
    # GELU(u) + GELU(-u) = u erf(u / sqrt 2), about 0.8 u^2: for u = 0.2 z and z of order 1 a few percent of GELU(z)
    assert relative_change(before, after, "blocks.0.mlp.fc2") > 1e-3


def test_equal_rows_with_opposite_outgoing_weights_keep_it() -> None:
    before = traced("vit")
    after = widened_hidden_layer(before, 0.2, -1.0)
    fxgrow.verify(before, after)
    assert relative_change(before, after, "blocks.0.mlp.fc2") < 1e-12


def test_heads_that_are_cut_anew_change_the_function() -> None:
    before = traced("attention")
    after = widened_values(before, interleaved=False)
    with pytest.raises(VerificationError):
        fxgrow.verify(before, after)
    # two of six values of a head come from another head's rows: the change is of the order of the value
    assert relative_change(before, after, "proj") > 0.1


def test_heads_that_hold_their_boundaries_keep_it() -> None:
    before = traced("attention")
    after = widened_values(before, interleaved=True)
    fxgrow.verify(before, after)
    assert relative_change(before, after, "proj") < 1e-12
