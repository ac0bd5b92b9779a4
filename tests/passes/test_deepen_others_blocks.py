"""Blocks as libraries write them: what they do besides computing does not keep them from becoming two steps."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.graph.blocks import find_blocks, runs


class OwnDropPath(nn.Module):
    """Stochastic depth, by the name that each model of transformers gives its own."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand(len(x), 1, 1, device=x.device) < 0.5)


class Branch(nn.Module):
    """An MLP that looks at the dtype of its last weight first, as that of T5 does."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.drop_path = OwnDropPath()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(self.norm(x)).relu().to(self.fc2.weight.dtype)
        return x + self.drop_path(self.fc2(hidden))


class Flattening(nn.Module):
    """A linear map behind which BatchNorm runs over all tokens, as in LeViT, and an identity behind the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.bn, self.end = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        value = self.out(x.tanh())
        return self.end(x + self.bn(value.flatten(0, 1)).reshape_as(value))


class Reader(nn.Module):
    """A block of a decoder: it reads a memory of the same shape as the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.out = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        weights = (self.query(x) @ self.key(memory).transpose(1, 2)).softmax(-1)
        return x + self.out(weights @ memory)


class Mixing(nn.Module):
    """A branch without a linear map that a scale ends, shown in the shape of the stream, as in EfficientFormer."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((8,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + (x.tanh().roll(1, 1) - x) * self.gamma.view(1, 1, -1)


class Around(nn.Module):
    """A sum around one module that is all of the branch, as in Xception."""

    def __init__(self) -> None:
        super().__init__()
        self.rep = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.rep(x)
        branch += x
        return branch


class Joined(nn.Module):
    """ReLU behind the sum; in front of the first block each part of what is joined has been through it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.out(x))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.ModuleList([Mixing(), Mixing()])
        self.block1, self.block2 = Around(), Around()
        self.joined = nn.ModuleList([Joined(), Joined()])
        self.encoder = nn.ModuleList([Branch(), Branch()])
        self.mixer = nn.ModuleList([Flattening(), Flattening()])
        self.decoder = nn.ModuleList([Reader(), Reader()])
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        memory = x
        for block in (*self.encoder, *self.mixer, *self.mixing, self.block1, self.block2):
            memory = block(memory)
        memory = torch.cat((torch.relu(memory[..., :3]), torch.relu(memory[..., 3:])), -1)
        for block in self.joined:
            memory = block(memory)
        for block in self.decoder:
            x = block(x, memory)
        return self.head(x)


@pytest.fixture(scope="module")
def pair() -> tuple[torch.fx.GraphModule, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Pair()
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4, 8)).astype(np.float32))
    return fxgrow.trace(model, x), x


@pytest.mark.parametrize("path", ["encoder.0", "encoder.1", "mixer.0", "mixing.0", "block1", "joined.0", "decoder.0"])
def test_a_silent_copy_of_it_changes_nothing(pair: tuple[torch.fx.GraphModule, Tensor], path: str) -> None:
    traced, x = pair
    fxgrow.verify(traced, fxgrow.deepen(traced, path, how="zero"), x, modes=("eval",))


def test_blocks_with_an_identity_between_them_stand_in_one_row(pair: tuple[torch.fx.GraphModule, Tensor]) -> None:
    assert ["mixer.0", "mixer.1"] in [[block.path for block in run] for run in runs(find_blocks(pair[0]))]


def test_a_block_is_named_by_the_module_that_makes_its_sum(pair: tuple[torch.fx.GraphModule, Tensor]) -> None:
    assert ["block1", "block2"] in [[block.path for block in run] for run in runs(find_blocks(pair[0]))]


@pytest.mark.parametrize("path", ["encoder.0", "mixer.1", "decoder.1"])
def test_half_steps_of_it_compute_what_is_written_out(pair: tuple[torch.fx.GraphModule, Tensor], path: str) -> None:
    traced, x = pair
    model = Pair()
    model.load_state_dict(traced.state_dict(), strict=True)
    stack, place = model.get_submodule(path.partition(".")[0]), int(path[-1])
    assert isinstance(stack, nn.ModuleList)
    ends = {"encoder": "fc2", "mixer": "bn", "decoder": "out"}[path.partition(".")[0]]
    with torch.no_grad():
        for parameter in stack[place].get_submodule(ends).parameters():
            parameter.mul_(0.5)
    stack.insert(place, stack[place])
    deeper = fxgrow.deepen(traced, path)
    assert torch.allclose(deeper.eval()(x), model.eval()(x), atol=1e-6)
    traced.train()
