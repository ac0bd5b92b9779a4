"""Layers whose weights are computed, quantised, adapted, sparse or complex: traced right or kept whole, with a note."""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import fxgrow
from fxgrow.errors import AnalysisError
from fxgrow.record.record import record_of
from fxgrow.testing import Draws


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))


def sample() -> Tensor:
    return Draws(dtype=torch.float32).normal(16, 6)


def pruned(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.3)
    prune.random_unstructured(layer, "bias", 2)


COMPUTED: dict[str, Callable[[nn.Module], object]] = {
    "WeightNorm": parametrizations.weight_norm,
    "SpectralNorm": parametrizations.spectral_norm,
    "Orthogonal": parametrizations.orthogonal,
    "WeightNorm ": weight_norm,
    "SpectralNorm ": spectral_norm,
    "L1Unstructured, RandomUnstructured": pruned,
}


def grown_and_checked(model: nn.Module, x: Tensor) -> torch.fx.GraphModule:
    """Trace, grow and train a model for a step; what has grown is the model, before it is trained."""
    traced = fxgrow.trace(model, x)
    batches = [(x, torch.arange(len(x)) % 3)]
    grown = fxgrow.grow(traced, fxgrow.analyze(traced, F.cross_entropy, batches, iterations=2), budget=0.3)
    fxgrow.verify(model, grown, x)
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(grown(x), batches[0][1]).backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in fxgrow.new_parameters(grown).values())
    return traced


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated")
@pytest.mark.parametrize("how", COMPUTED)
def test_a_layer_whose_weights_are_computed_stays_whole_and_the_note_says_how(how: str):
    model = network()
    COMPUTED[how](model[2])
    traced = grown_and_checked(model, sample())
    assert set(fxgrow.find_sites(traced)) == {"0", "4"}
    (note,) = record_of(traced).trace_notes
    assert note.startswith("2 stays whole, with 4")
    assert note.endswith(f"% of the parameters: weights are computed from others, by {how.strip()}")


def quantised(model: nn.Module, where: set[str]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated, and quantises without being asked about it
        return torch.ao.quantization.quantize_dynamic(model, where)


def test_what_is_quantised_stays_whole_and_one_note_counts_it():
    traced = fxgrow.trace(quantised(network(), {"0", "2"}), sample())
    assert set(fxgrow.find_sites(traced)) == {"4"}
    assert record_of(traced).trace_notes == ("0 and 1 more stay whole: quantised",)


def test_where_all_is_quantised_scores_are_refused():
    traced = fxgrow.trace(quantised(network(), {"0", "2", "4"}), sample())
    with pytest.raises(AnalysisError, match="it has no linear map"):
        fxgrow.analyze(traced, F.cross_entropy, [(sample(), torch.zeros(16, dtype=torch.int64))])


def test_layers_of_lora_are_traced_and_each_of_their_maps_is_a_site():
    model = inject_adapter_in_model(LoraConfig(r=2, target_modules=["2"], lora_dropout=0.1), network())
    traced = grown_and_checked(model, sample())
    assert set(fxgrow.find_sites(traced)) == {"0", "2.base_layer", "2.lora_A.default", "2.lora_B.default", "4"}
    assert not record_of(traced).trace_policy["leaves"]


class Looked(nn.Module):
    """A table with sparse gradients, and a map behind it."""

    def __init__(self, table: nn.Module, pool: bool) -> None:
        super().__init__()
        self.table, self.first, self.last, self.pool = table, nn.Linear(8, 8), nn.Linear(8, 3), pool

    def forward(self, ids: Tensor) -> Tensor:
        found = self.table(ids)
        return self.last(F.gelu(self.first(found.mean(1) if self.pool else found)))


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_tables_with_sparse_gradients_are_traced_and_what_follows_grows(kind):
    torch.manual_seed(0)
    ids = Draws().uniform(16, 5, high=20).long()
    traced = grown_and_checked(Looked(kind(20, 8, sparse=True), kind is nn.Embedding), ids)
    assert set(fxgrow.find_sites(traced)) == {"first", "last"}


class Spectral(nn.Module):
    """Weighs frequencies by a complex parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.polar(torch.full((8, 4), 0.5), torch.arange(32.0).reshape(8, 4)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,oi->bo", x, self.weight)


class Complex(nn.Module):
    def __init__(self, waves: nn.Module) -> None:
        super().__init__()
        self.waves, self.first, self.last = waves, nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.gelu(self.first(self.waves(torch.fft.rfft(x)).abs().flatten(1))))


COMPLEX: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "linear": (lambda: nn.Linear(4, 8, dtype=torch.complex64), True),
    "convolution": (lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 1, dtype=torch.complex64)), True),
    "spectral weights": (Spectral, False),
}


@pytest.mark.parametrize("kind", COMPLEX)
def test_a_complex_layer_does_not_grow_for_that_reason_and_what_follows_does(kind: str):
    torch.manual_seed(0)
    waves, is_site = COMPLEX[kind]
    traced = grown_and_checked(Complex(waves()), sample())
    sites = fxgrow.find_sites(traced)
    refusals = {path: site.refusal for path, site in sites.items() if path.startswith("waves")}
    assert list(refusals.values()) == ["its weight is torch.complex64, not floating point"] * is_site
    assert sites["first"].refusal is None
