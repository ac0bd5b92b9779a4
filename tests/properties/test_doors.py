"""Every function that is given a model leaves it as it was, also where it is stopped in the middle of its work."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import FxgrowError
from fxgrow.execution.randomness import random_state
from fxgrow.inspection import summarize, to_text, view_tree
from fxgrow.testing import Draws

pytestmark = pytest.mark.filterwarnings("ignore::fxgrow.curvature.FewSamplesWarning")

#: how often a `Restless` may still be called before somebody presses Ctrl-C
LEFT = [10**9]


class Restless(nn.Linear):
    """Writes to itself in forward: its weight, a buffer, an attribute, a list; and draws."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.register_buffer("total", torch.zeros(4))
        self.calls, self.seen = 0, [0]

    def forward(self, x: Tensor) -> Tensor:
        LEFT[0] -= 1
        self.weight.data.clamp_(min=0)
        self.total += 1
        self.calls += 1
        self.seen.append(self.calls)
        if LEFT[0] < 0:
            raise KeyboardInterrupt
        return super().forward(x) + 0 * torch.rand(1, dtype=x.dtype)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(4), nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.restless, self.norm, self.head = Restless(), nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.restless(self.blocks(x))))


def data() -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches as a loader does that shuffles: it draws from the global random state."""
    draws = Draws(1)
    for _ in range(2):
        torch.rand(1)
        yield draws.normal(8, 4), torch.arange(8) % 3


X = Draws(0).normal(6, 4)
Door = Callable[[nn.Module, fx.GraphModule, Path], object]
#: given the user's model, one that was traced before, and a folder
DOORS: dict[str, Door] = {
    "trace": lambda model, traced, folder: fxgrow.trace(model, X),
    "verify": lambda model, traced, folder: fxgrow.verify(model, traced, X),
    **{
        f"analyze, {score}": lambda model, traced, folder, score=score: fxgrow.analyze(
            traced, F.cross_entropy, data(), score=score, iterations=2
        )
        for score in ("eigen", "gradient", "hessian", "half-step", "half-step-gradient", "random")
    },
    "deepen": lambda model, traced, folder: fxgrow.deepen(traced, "blocks.0"),
    "deepen, fitted": lambda model, traced, folder: fxgrow.deepen(traced, "blocks.0", fit=data()),
    "insert_block": lambda model, traced, folder: fxgrow.insert_block(traced, after="blocks.0"),
    "widen": lambda model, traced, folder: fxgrow.widen(traced, "blocks.0.fc1", by=2),
    "slim": lambda model, traced, folder: fxgrow.slim(traced),
    "save": lambda model, traced, folder: fxgrow.save(traced, folder / "model.pt"),
    "save, load": lambda model, traced, folder: (
        fxgrow.save(traced, folder / "model.pt", check=False),
        fxgrow.load(folder / "model.pt", base=model),
    ),
    "inspect": lambda model, traced, folder: (to_text(view_tree(traced)), summarize(traced)),
    "progressive": lambda model, traced, folder: fxgrow.Progressive(model, X, depth=1 / 2).costs(X, repetitions=1),
    "grow_inside, refused": lambda model, traced, folder: fxgrow.grow_inside(
        model, "blocks", F.cross_entropy, data(), budget=0
    ),
    "Grower": lambda model, traced, folder: fxgrow.Grower(
        traced, F.cross_entropy, torch.optim.SGD(traced.parameters(), 0.1), at=[10]
    ),
    "export": lambda model, traced, folder: fxgrow.export.export_safetensors(traced, folder / "model.safetensors"),
}


def state(*models: nn.Module) -> dict[str, Any]:
    """Return what can be told of models: values, identities, gradients, modes, hooks and plain attributes."""
    found: dict[str, Any] = {"random": random_state()}
    for number, model in enumerate(models):
        for path, module in model.named_modules():
            plain = {key: repr(value) for key, value in vars(module).items() if isinstance(value, list | int | float)}
            hooks = [len(value) for key, value in vars(module).items() if key.endswith("_hooks")]
            found[f"{number} {path}"] = (id(module), plain, hooks, list(module._modules))
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            found[f"{number} {name} "] = (id(value), value.data_ptr(), value.tolist(), value.requires_grad, value.grad)
    return found


@pytest.fixture
def models() -> tuple[nn.Module, fx.GraphModule]:
    torch.manual_seed(0)
    LEFT[0] = 10**9
    model = Model().double()
    traced = fxgrow.trace(model, X)
    LEFT[0] = 10**9
    with torch.no_grad():
        model.restless.weight.fill_(-1.0)  # which its next forward would not leave so
    return model, traced


@pytest.mark.parametrize("door", DOORS)
def test_a_model_is_as_it_was(door: str, models: tuple[nn.Module, fx.GraphModule], tmp_path: Path) -> None:
    before = state(*models)
    with suppress(FxgrowError):
        DOORS[door](*models, tmp_path)
    calls = 10**9 - LEFT[0]
    assert state(*models) == before
    for allowed in {calls // 2, calls - 1} if calls else ():  # and the same with Ctrl-C
        LEFT[0], folder = allowed, tmp_path / str(allowed)
        folder.mkdir()
        with suppress(KeyboardInterrupt):  # what was found out about a graph may be known by now, and not asked again
            DOORS[door](*models, folder)
        assert state(*models) == before, allowed
