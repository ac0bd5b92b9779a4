"""The number of samples in a batch is what the target, the model or the user says, and never a guess."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.curvature import StepRecorder, analyze
from fxgrow.errors import AnalysisError

pytestmark = pytest.mark.filterwarnings("ignore::fxgrow.curvature.FewSamplesWarning")
RANDOM = np.random.default_rng(0)


def _normal(*shape: int) -> Tensor:
    return torch.from_numpy(RANDOM.standard_normal(shape))


def _integers(high: int, *shape: int) -> Tensor:
    return torch.from_numpy(RANDOM.integers(0, high, shape))


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.fc, self.out = nn.EmbeddingBag(20, 6), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        return self.out(torch.tanh(self.fc(self.bag(ids, offsets))))


class Nodes(nn.Module):
    """One prediction for each graph of a batch; how many there are is nowhere among the inputs' sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, nodes: Tensor, pooling: Tensor) -> Tensor:
        return self.out(pooling.mT @ torch.tanh(self.fc(nodes)))


class TimeFirst(nn.Module):
    """Reads ``(time, samples, 5)``, and mixes over time."""

    def __init__(self, per_step: bool) -> None:
        super().__init__()
        self.fc, self.out, self.per_step = nn.Linear(5, 4), nn.Linear(4, 3), per_step

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.fc(x)).cumsum(0)
        return self.out(hidden if self.per_step else hidden.mean(0))


def _bag_batch(samples: int, length: int):
    return (_integers(20, samples * length), torch.arange(0, samples * length, length)), _integers(3, samples)


def _graph_batch(samples: int, length: int):
    pooling = torch.eye(samples).repeat_interleave(length, 0).double()
    return (_normal(samples * length, 5), pooling), _integers(3, samples)


def _series_batch(samples: int, length: int):
    return _normal(length, samples, 5), _integers(3, samples)


def _series_with_a_target_for_each_step(samples: int, length: int):
    return _normal(length, samples, 5), _integers(3, length, samples)


def _loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


KINDS = {
    "bags": (Bags, _bag_batch),
    "graphs": (Nodes, _graph_batch),
    "time first": (lambda: TimeFirst(False), _series_batch),
    "time first, a target for each step": (lambda: TimeFirst(True), _series_with_a_target_for_each_step),
}
SHAPES = {"alike": [(6, 5), (6, 5)], "other lengths": [(6, 3), (6, 15)], "other samples": [(4, 5), (7, 5), (3, 2)]}


def _expected(model: nn.Module, batches, counts: list[int]) -> Tensor:
    """Return the least eigenvalues of ``S_i = sum_b n_b / N sum_t delta_it x_t x_t^T`` at `fc`, by a hook."""
    total: Tensor | float = 0.0
    for (inputs, target), count in zip(batches, counts, strict=True):
        seen: list[Tensor] = []
        hook = model.fc.register_forward_hook(lambda _, x, o, seen=seen: seen.extend((x[0].detach(), o)))
        output = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
        hook.remove()
        (delta,) = torch.autograd.grad(_loss(output, target), seen[1])
        x, delta = seen[0].flatten(0, -2), delta.flatten(0, -2)
        total = total + torch.einsum("ti,td,te->ide", delta, x, x) * (count / sum(counts))
    return torch.linalg.eigvalsh(total)[:, 0]


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_batches_count_by_their_samples_wherever_they_lie(kind: str, shapes: list[tuple[int, int]]) -> None:
    make, batch = KINDS[kind]
    model = make().double()
    batches = [batch(*shape) for shape in shapes]
    counts = [samples for samples, _ in shapes]
    scores = analyze(torch.fx.symbolic_trace(model), _loss, batches, score="branch", sites=["fc"])
    assert scores.samples == sum(counts)
    torch.testing.assert_close(scores["fc"].values, _expected(model, batches, counts), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_one_batch_has_the_same_values_and_held_out_values_only_where_it_shows_its_samples(kind: str) -> None:
    make, batch = KINDS[kind]
    model, read = make().double(), batch(6, 5)
    scores = analyze(torch.fx.symbolic_trace(model), _loss, [read], score="branch", sites=["fc"])
    torch.testing.assert_close(scores["fc"].values, _expected(model, [read], [6]), rtol=1e-8, atol=1e-12)
    assert (scores["fc"].held_out is None) == (kind in ("bags", "graphs"))


def test_a_time_first_batch_is_halved_by_its_samples() -> None:
    model = TimeFirst(True).double()
    x, target = _series_with_a_target_for_each_step(8, 5)
    graph_module = torch.fx.symbolic_trace(model)
    one = analyze(graph_module, _loss, [(x, target)], score="branch")
    two = analyze(graph_module, _loss, [(x[:, k::2], target[:, k::2]) for k in (0, 1)], score="branch")
    for path in one:
        torch.testing.assert_close(one[path].held_out, two[path].held_out, rtol=1e-7, atol=1e-12)


def _flat(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), target)


def test_texts_with_flattened_targets_count_by_the_texts_that_the_model_keeps_apart() -> None:
    model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 9))
    batches = [(_integers(9, size, 5), _integers(9, size * 5)) for size in (7, 3)]
    assert analyze(torch.fx.symbolic_trace(model), _flat, batches).samples == 10


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x - x.mean()).sum((0, 1)).expand(3, 4)


def _batch_of_unknown_samples(length: int) -> tuple[Tensor, Tensor]:
    return _normal(length, 7, 5).float(), _normal(2, 1).float()


def _first_two(output: Tensor, target: Tensor) -> Tensor:
    return (output[:2] - target).square().mean()


def test_batches_that_differ_are_refused_where_nothing_says_how_many_samples_they_have() -> None:
    graph_module = torch.fx.symbolic_trace(Mixing())
    alike = [_batch_of_unknown_samples(5), _batch_of_unknown_samples(5)]
    assert analyze(graph_module, _first_two, alike).samples == 2
    with pytest.raises(AnalysisError, match=r"batch 2: it is unlike the first one, .*samples="):
        analyze(graph_module, _first_two, [*alike, _batch_of_unknown_samples(6)])
    with pytest.raises(AnalysisError, match="samples="):
        analyze(graph_module, _first_two, alike[:1])


def test_the_user_says_how_many_samples_a_batch_holds() -> None:
    graph_module = torch.fx.symbolic_trace(Mixing())
    batches = [_batch_of_unknown_samples(length) for length in (5, 6)]
    scores = analyze(graph_module, _first_two, batches, samples=lambda batch: 10 * len(batch[0]))
    assert scores.samples == 110


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (lambda batch: 0, "samples= at batch 0: it is 0"),
        (lambda batch: 2.5, "it is 2.5"),
        (lambda batch: batch["no such"], "it fails"),
    ],
)
def test_a_wrong_answer_of_the_users_function_is_told(samples, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        analyze(torch.fx.symbolic_trace(Mixing()), _first_two, [_batch_of_unknown_samples(5)], samples=samples)


def test_a_recorded_step_counts_as_an_analysis_does() -> None:
    model = TimeFirst(False).double()
    batches = [_series_batch(4, 5), _series_batch(7, 3)]
    traced = torch.fx.symbolic_trace(model)
    recorder = StepRecorder(traced, sites=["fc"], samples=lambda inputs: inputs[0].shape[1])
    for x, target in batches:
        F.cross_entropy(recorder(x), target).backward()
    recorded = recorder.scores()
    measured = analyze(traced, F.cross_entropy, batches, sites=["fc"])
    assert recorded.samples == measured.samples == 11
    torch.testing.assert_close(recorded["fc"].values, measured["fc"].values)


def test_reading_stops_at_max_samples_also_where_samples_are_not_in_front() -> None:
    batches = (_series_batch(6, 20) for _ in range(100))
    scores = analyze(torch.fx.symbolic_trace(TimeFirst(False).double()), F.cross_entropy, batches, max_samples=20)
    assert scores.samples == 24


def test_a_grower_counts_by_the_users_function() -> None:
    model = torch.fx.symbolic_trace(Mixing())
    batches = [_batch_of_unknown_samples(length) for length in (5, 6)]
    optimizer = torch.optim.AdamW(model.parameters())
    grower = fxgrow.Grower(
        model,
        _first_two,
        optimizer,
        budget=0.9,
        at=(0,),
        compile=False,
        samples=lambda batch: len(batch[0]),
        operator="branch",
    )
    assert grower.grow(batches).scores.samples == 11
