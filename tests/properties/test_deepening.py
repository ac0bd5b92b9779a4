"""Random chains of residual blocks: shapes are kept, half-steps are what they are called, silent copies are silent."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxgrow
from fxgrow.passes.deepen import Deepen
from fxgrow.progressive import Progressive, Stage
from fxgrow.testing import check_pass

WIDTH = 4
BEFORE, INSIDE, BEHIND = (
    ("nothing", "norm"),
    ("linear", "mlp", "gated"),
    ("nothing", "norm", "scale", "dropout", "view"),
)


class Block(nn.Module):
    """Residual branches as a recipe says, one after the other: what stands before, inside and at their ends."""

    def __init__(self, recipe: list[tuple[str, str, str]]) -> None:
        super().__init__()
        self.recipe = recipe
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in recipe)
        self.ups = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in recipe)
        self.downs = nn.ModuleList(nn.Linear(WIDTH if kind == "linear" else 2 * WIDTH, WIDTH) for _, kind, _ in recipe)
        self.ends = nn.ModuleList(nn.LayerNorm(WIDTH) if end == "norm" else nn.Dropout(0.0) for *_, end in recipe)
        self.scales = nn.ParameterList(torch.ones(WIDTH) for *_, end in recipe if end == "scale")

    def steps(self, x: Tensor, size: float) -> Tensor:
        scales = iter(self.scales)
        for index, (before, inside, end) in enumerate(self.recipe):
            h = self.norms[index](x) if before == "norm" else x
            if inside != "linear":
                up = self.ups[index](h)
                h = F.gelu(up) * up.sigmoid() if inside == "gated" else F.gelu(up)
            h = self.downs[index](h)
            h = self.ends[index](h) if end in ("norm", "dropout") else next(scales) * h if end == "scale" else h
            h = h.reshape(-1, 2, WIDTH // 2).flatten(1) if end == "view" else h
            x = x + h if size == 1 else x + size * h
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x, 1)


RECIPES = st.lists(st.tuples(*map(st.sampled_from, (BEFORE, INSIDE, BEHIND))), min_size=1, max_size=2)


def build(recipe: list[tuple[str, str, str]], blocks: int, seed: int) -> tuple[nn.Sequential, Tensor]:
    draw = np.random.default_rng(seed)
    model = nn.Sequential(*[Block(recipe) for _ in range(blocks)]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(0.5 * draw.standard_normal(parameter.shape)) + (parameter.dim() == 1))
    return model, torch.from_numpy(draw.standard_normal((3, WIDTH)))


@settings(max_examples=12)
@given(recipe=RECIPES, data=st.data(), seed=st.integers(0, 99))
def test_silent_copies_are_exact_and_half_steps_keep_the_shapes(recipe, data, seed) -> None:  # type: ignore[no-untyped-def]
    model, x = build(recipe, 3, seed)
    traced = fxgrow.trace(model, x, check=False)
    chosen = sorted(data.draw(st.sets(st.integers(0, 2), min_size=1)))
    paths = tuple(str(index) for index in chosen)
    silent = check_pass(Deepen(paths, "zero"), traced, x).graph_module
    torch.testing.assert_close(silent(x), traced(x), rtol=0, atol=1e-10)
    halved = check_pass(Deepen(paths, "half"), traced, x).graph_module
    expected = x
    for index, block in enumerate(model):
        expected = block.steps(block.steps(expected, 0.5), 0.5) if index in chosen else block(expected)
    torch.testing.assert_close(halved(x), expected, rtol=1e-10, atol=1e-10)


@settings(max_examples=12)
@given(recipe=RECIPES, data=st.data(), seed=st.integers(0, 99))
def test_stages_of_any_kind_end_in_the_model_itself(recipe, data, seed) -> None:  # type: ignore[no-untyped-def]
    model, x = build(recipe, 4, seed)
    first = data.draw(st.sets(st.integers(0, 3), min_size=1, max_size=3))
    second = first | data.draw(st.sets(st.integers(0, 3)))
    stages = [Stage(depth=tuple(str(index) for index in sorted(chosen))) for chosen in (first, second)]
    growing = Progressive(model, x, stages=stages)
    known = x
    for index, block in enumerate(model):
        known = block(known) if index in first else known
    torch.testing.assert_close(growing(x), known, rtol=1e-12, atol=1e-12)
    while growing.stage + 1 < len(growing.stages):
        growing.advance()
    assert growing.idle == ()
    assert torch.equal(growing(x), model(x))
