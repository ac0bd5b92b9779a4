"""New weights of convolutions lie in memory as those of the model."""

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.passes import parse
from fxgrow.testing import Draws

_EDITS = (
    'insert-pseudo-layers{rows={"0":[0,3]} operator="serial"}',
    'insert-pseudo-layers{rows={"2":[1,2]} operator="branch"}',
    'widen{site="0" by=2}',
)


@pytest.mark.parametrize("edit", _EDITS)
@pytest.mark.parametrize(
    ("convolution", "layout"), [(nn.Conv2d, torch.channels_last), (nn.Conv3d, torch.channels_last_3d)]
)
def test_new_weights_are_channels_last_where_the_models_are_and_only_there(convolution, layout, edit) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(convolution(3, 8, 3, padding=1), nn.ReLU(), convolution(8, 6, 3))
    dimensions = model[0].weight.dim()
    x = Draws(dtype=torch.float32).normal(2, 3, *[5] * (dimensions - 2))
    first = parse(edit)(fxgrow.trace(model, x)).graph_module
    assert all(weight.is_contiguous() for weight in first.parameters())
    model.to(memory_format=layout)
    traced = fxgrow.trace(model, x)
    grown = parse(edit)(traced).graph_module
    assert all(w.is_contiguous(memory_format=layout) for w in grown.parameters() if w.dim() == dimensions)
    fxgrow.verify(traced, grown)
