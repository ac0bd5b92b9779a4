"""Blocks that arrange the stream anew, and bring it back in order."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PassError
from fxgrow.graph.blocks import find_blocks, runs


class Tokens(nn.Module):
    """A step on an image, and one on its pixels as tokens, as in timm's DaViT."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(4, 4, 1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        count, width, rows, columns = x.shape
        x = x + self.conv(x)
        x = x.flatten(2).transpose(1, 2)
        x = x + self.fc(x)
        return x.transpose(1, 2).view(count, width, rows, columns)


class Windows(nn.Module):
    """Two steps in windows of 2 x 2 pixels, as in MaxViT."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        count, width, rows, columns = x.shape
        x = x.reshape(count, width, rows // 2, 2, columns // 2, 2).permute(0, 2, 4, 3, 5, 1)
        x = x.reshape(count, -1, 4, width)
        x = x + self.first(x)
        x = x + self.second(x)
        x = x.reshape(x.shape[0], rows // 2, columns // 2, 2, 2, width).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(count, width, rows, columns)


class Named(nn.Module):
    """A step on tokens with a module in the place of a norm, as in timm's second Swin V2."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(4, 4, 1), nn.Linear(4, 4), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = (x + self.first(x)).movedim(1, -1).reshape(shape[0], -1, shape[1])
        x = self.norm(x + self.second(x))
        return x.unflatten(1, (shape[2], shape[3])).swapaxes(1, 3).transpose(2, 3)


class Turned(nn.Module):
    """A step that leaves a square with its sides exchanged: of the same shape, and something else."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.fc(x)).transpose(2, 3)


def stack(block: type[nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    draw = np.random.default_rng(0)
    model = nn.Sequential(*[block() for _ in range(4)], nn.Flatten(), nn.Linear(int(np.prod(shape[1:])), 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(0.3 * draw.standard_normal(parameter.shape)))
    return model, torch.from_numpy(draw.standard_normal(shape))


@pytest.mark.parametrize("block", [Tokens, Windows, Named])
def test_a_block_that_brings_the_stream_back_in_order_can_be_copied_and_left_out(block: type[nn.Module]) -> None:
    model, x = stack(block, (2, 4, 4, 6))
    traced = fxgrow.trace(model, x)
    deeper = fxgrow.deepen(traced, "1", how="zero")
    assert fxgrow.verify(traced, deeper, x).largest_absolute < 1e-10
    growing = fxgrow.Progressive(model, x, depth=1 / 2)
    expected = model[4:](model[2](model[0](x)))
    assert torch.equal(growing(x), expected) or torch.allclose(growing(x), expected, rtol=1e-12, atol=1e-12)
    growing.advance()
    assert torch.equal(growing(x), model(x))


def test_a_block_that_exchanges_two_sides_of_the_stream_is_refused() -> None:
    model, x = stack(Turned, (2, 3, 4, 4))
    traced = fxgrow.trace(model, x)
    with pytest.raises(PassError, match="1: what leaves it is arranged in another way than what enters; name a block"):
        fxgrow.deepen(traced, "1", how="zero")


def test_blocks_of_which_two_bring_the_stream_back_are_copied_together() -> None:
    model, x = stack(Turned, (2, 3, 4, 4))
    pairs = nn.Sequential(model[:2], model[2:4], model[4:])
    traced = fxgrow.trace(pairs, x)
    assert [block.path for block in runs(find_blocks(traced))[0]] == ["0", "1"]
    assert fxgrow.verify(traced, fxgrow.deepen(traced, "0", how="zero"), x).largest_absolute < 1e-10
