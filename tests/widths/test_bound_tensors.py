"""What more reads than its own module keeps its size, and the refusal names the tie."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PassError


class TransposedDecoder(nn.Module):
    """An autoencoder whose decoder is its encoder's transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.middle = nn.Linear(6, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.middle(self.encoder(x).tanh()).tanh(), self.encoder.weight.t())


class Penalised(nn.Module):
    """A model that returns the norm of a weight beside its output."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.out = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.out(self.encoder(x).tanh()), self.encoder.weight.square().sum()


class BorrowedBias(nn.Module):
    """A model that scales a layer by its own bias."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.out = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.encoder(x) * self.encoder.bias).tanh())


class SharedNorm(nn.Module):
    """One BatchNorm behind two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.norm, self.middle, self.out = (
            nn.Linear(6, 5),
            nn.BatchNorm1d(5),
            nn.Linear(5, 5),
            nn.Linear(5, 3),
        )
        self.again = self.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.again(self.middle(self.norm(self.encoder(x)).tanh())).tanh())


class BorrowedScale(nn.Module):
    """A model that reads the scale of its BatchNorm by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.norm, self.out = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.out(self.norm(self.encoder(x)).tanh()), self.norm.weight.abs().sum()


KINDS = {
    TransposedDecoder: "Tensor.t reads encoder.weight too",
    Penalised: "Tensor.square reads encoder.weight too",
    BorrowedBias: "encoder.bias has it",
    SharedNorm: "norm.weight has other names too",
    BorrowedScale: "Tensor.abs reads norm.weight too",
}


@pytest.mark.parametrize("kind", KINDS)
def test_widening_names_what_else_reads_the_weight(kind: type[nn.Module]) -> None:
    traced = fxgrow.trace(kind(), torch.linspace(-1, 1, 24).reshape(4, 6))
    with pytest.raises(PassError, match=f"encoder: its width cannot change: .*{KINDS[kind]}; name a site"):
        fxgrow.widen(traced, "encoder", by=2)


def test_widening_in_front_of_a_tie_names_it() -> None:
    traced = fxgrow.trace(TransposedDecoder(), torch.linspace(-1, 1, 24).reshape(4, 6))
    with pytest.raises(
        PassError, match=r"middle: its width .*: linear reads it, with a weight computed from encoder\.w"
    ):
        fxgrow.widen(traced, "middle", by=2)


@pytest.mark.parametrize("kind", KINDS)
def test_slimming_leaves_it_alone_or_names_it(kind: type[nn.Module]) -> None:
    traced = fxgrow.trace(kind(), torch.linspace(-1, 1, 24).reshape(4, 6))
    with pytest.raises(PassError, match=f"no width can change, this one because .*{KINDS[kind]}"):
        fxgrow.slim(traced, 0.5)


def test_a_hidden_width_beside_a_tie_still_changes() -> None:
    model = nn.Sequential(TransposedDecoder(), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)).double()
    traced = fxgrow.trace(model, torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6))
    fxgrow.verify(traced, fxgrow.widen(traced, "1", by=2))
    assert fxgrow.slim(traced, 0.5).get_submodule("1").out_features == 4
