"""What stays whole is told, with the reason, wherever a user looks for sites: in scores, plans, files and views."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm

import fxgrow
from fxgrow.curvature import StepRecorder
from fxgrow.errors import AnalysisError, PlanError
from fxgrow.files import read_table
from fxgrow.graph.wholes import find_wholes
from fxgrow.inspection import view_tree
from fxgrow.inspection.parameters import list_parameters
from fxgrow.testing import Draws

pytestmark = pytest.mark.filterwarnings("ignore::fxgrow.curvature.FewSamplesWarning", "ignore::FutureWarning")


class Noisy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * torch.rand(1)


class Branching(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > -1e9 else x


class Frozen(nn.Sequential):
    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self[1].eval()
        return self


class Last(nn.GRU):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x[:, None])[0][:, 0]


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.t() @ x


class Own(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return Product.apply(x, self.weight) + self.bias


class Masked(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * (self.weight > 0), self.bias)


class Summed(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,oi->bo", x, self.weight) + self.bias


class Part(nn.Linear):
    """Takes its weight apart by the size of what it is given, as cross-attention does."""

    def forward(self, x: Tensor) -> Tensor:
        weight, _ = self.weight.split([x.size(-1), 4])
        return F.linear(x, weight)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8, dtype=torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.to(torch.complex64)).real


KINDS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "pruned": (lambda: prune.l1_unstructured(nn.Linear(8, 8), "weight", 0.5), "computed from others, by L1Unstr"),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(8, 8)), "computed from others, by WeightNorm"),
    "spectral_norm": (lambda: spectral_norm(nn.Linear(8, 8)), "computed from others, by SpectralNorm"),
    "random": (lambda: Noisy(8, 8), "draws random numbers"),
    "control flow": (lambda: Branching(8, 8), "its control flow depends on the values of"),
    "hooked": (lambda: _hooked(nn.Sequential(nn.Linear(8, 8))), "has a forward hook that looks on"),
    "train() overridden": (lambda: Frozen(nn.Linear(8, 8), nn.BatchNorm1d(8)), "leaves 1 in eval mode"),
    "recurrent": (lambda: Last(8, 8, batch_first=True), "which is no linear map"),
    "einsum": (lambda: Summed(8, 8), "its weight is read by einsum, which is no linear map"),
    "autograd function": (lambda: Own(8, 8), "its weight is given to Product.apply, which stays one operation"),
    "taken apart": (lambda: Part(8, 12, bias=False), "its weight is computed in forward"),
    "masked by hand": (lambda: Masked(8, 8), "its weight is computed in forward"),
    "complex": (Complex, "its weight is torch.complex64, not floating point"),
}


def _hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, args, output: None)
    return module


def _traced(make: Callable[[], nn.Module]) -> tuple[torch.fx.GraphModule, nn.Module, list[tuple[Tensor, Tensor]]]:
    draws = Draws(0, torch.float32)
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), make(), nn.GELU(), nn.Linear(8, 3))
    batches = [(draws.normal(16, 8), torch.arange(16) % 3)]
    return fxgrow.trace(model, batches[0][0]), model, batches


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_told_by_scores_plan_view_and_file(kind: str, tmp_path) -> None:
    make, reason = KINDS[kind]
    traced, model, batches = _traced(make)
    scores = fxgrow.analyze(traced, F.cross_entropy, batches, iterations=2)
    (path, told), *others = scores.refusals.items()
    assert (path.partition(".")[0], others) == ("2", [])
    assert reason in told
    with pytest.raises(PlanError, match="cannot grow"):
        fxgrow.plan(traced, scores, budget=0.5, include=[path])
    fxgrow.save(traced, tmp_path / "model.pt", check=False)
    for seen in (traced, read_table(tmp_path / "model.pt")):
        remarks = {item.remark for item in view_tree(seen).tree.walk() if item.path.startswith("2")} - {None}
        assert remarks == {f"cannot grow: {told}"}
        matrices = [row for row in list_parameters(seen).rows if row.name.startswith("2.") and len(row.shape) > 1]
        assert {row.verdict for row in matrices} == {f"no, {told}"}
    loaded = fxgrow.load(tmp_path / "model.pt", base=model)
    assert find_wholes(loaded) == find_wholes(traced)


def test_a_recorded_step_tells_it_too() -> None:
    traced, _, _ = _traced(lambda: Noisy(8, 8))
    assert StepRecorder(traced).refusals["2"].startswith("it stays whole: draws random numbers")


def test_sites_that_were_asked_for_are_refused_with_the_reason_and_others_not_mentioned() -> None:
    traced, _, batches = _traced(lambda: Noisy(8, 8))
    with pytest.raises(AnalysisError, match=r"^2: it cannot grow: it stays whole: draws random numbers"):
        fxgrow.analyze(traced, F.cross_entropy, batches, sites=["2"])
    assert not fxgrow.analyze(traced, F.cross_entropy, batches, sites=["0"], iterations=2).refusals


def test_a_model_without_any_site_says_why() -> None:
    traced = fxgrow.trace(nn.Sequential(Noisy(4, 4)), torch.zeros(2, 4))
    with pytest.raises(AnalysisError, match="no linear map with a weight of its own; 0: it stays whole: draws random"):
        fxgrow.analyze(traced, F.mse_loss, [(torch.zeros(2, 4), torch.zeros(2, 4))])


def test_tables_and_what_is_only_added_are_no_wholes() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.place, self.out = nn.Embedding(5, 4), nn.Parameter(torch.zeros(1, 4)), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.words(ids) + self.place)

    assert not find_wholes(fxgrow.trace(Embedded(), torch.tensor([0, 1])))
