"""The model is analyzed as it is: whatever its mode, precision and wrapping, and without a trace on it."""

import sys

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from fxgrow.curvature import analyze, find_score, score_names
from fxgrow.errors import AnalysisError
from fxgrow.testing import Draws

X = Draws(0, torch.float32).normal(12, 3, 8, 8)
TARGET = torch.arange(12) % 4
BATCHES = [(X[:8], TARGET[:8]), (X[8:], TARGET[8:])]


class _Attention(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.qkv, self.proj, self.dropout = nn.Linear(6, 18), nn.Linear(6, 6), dropout

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout)
        return self.proj(attended.transpose(1, 2).flatten(2))


class _Model(nn.Module):
    """Everything at once: BatchNorm, in-place ReLU, dropout, fused attention, a residual."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.norm, self.attention = nn.LayerNorm(6), _Attention(dropout)
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.attention(self.norm(x))
        x = x + self.mlp(x)
        return self.head(x.mean(1))


def _traced(**options):
    torch.manual_seed(0)
    return torch.fx.symbolic_trace(_Model(**options))


def _same(first, second):
    assert set(first) == set(second)
    for path in first:
        assert torch.equal(first[path].values, second[path].values), path
        assert torch.equal(first[path].held_out, second[path].held_out), path


@pytest.mark.parametrize("score", score_names())
@pytest.mark.parametrize("train", [True, False])
def test_no_score_leaves_a_trace(score, train):
    graph_module = _traced(dropout=0.1).train(train)
    graph_module.head.weight.grad = torch.ones(4, 6)
    before = {name: value.clone() for name, value in graph_module.state_dict().items()}
    state = torch.get_rng_state()
    modes = [module.training for module in graph_module.modules()]
    analyze(graph_module, F.cross_entropy, BATCHES, score=score, iterations=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in graph_module.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in graph_module.state_dict().items())
    gradients = {name: p.grad for name, p in graph_module.named_parameters() if p.grad is not None}
    assert list(gradients) == ["head.weight"]
    assert bool((gradients["head.weight"] == 1).all())


@pytest.mark.parametrize("score", score_names())
def test_the_same_seed_gives_the_same_scores_bit_for_bit(score):
    first, second = (
        analyze(_traced(dropout=0.3).train(), F.cross_entropy, BATCHES, score=score, iterations=2) for _ in range(2)
    )
    _same(first, second)


@pytest.mark.parametrize("score", score_names())
def test_every_score_has_one_finite_number_for_each_neuron(score):
    scores = analyze(_traced().eval(), F.cross_entropy, BATCHES, score=score, iterations=3)
    assert scores.score == score
    for path, site in scores.items():
        assert site.values.dtype == torch.float64, path
        assert site.values.shape == site.held_out.shape == site.stderr.shape, path
        for name in ("values", "held_out", "stderr"):
            assert bool(torch.isfinite(getattr(site, name)).all()), (path, name)
        assert site.sign == find_score(score).sign


def test_an_error_in_the_middle_leaves_no_trace_either():
    graph_module = _traced().train()
    before = {name: value.clone() for name, value in graph_module.state_dict().items()}
    with pytest.raises(AnalysisError):
        analyze(graph_module, F.cross_entropy, [*BATCHES, (X * torch.nan, TARGET)])
    assert all(torch.equal(before[name], value) for name, value in graph_module.state_dict().items())


def test_batch_norm_in_train_mode_falls_back_to_the_branch_matrix():
    graph_module = _traced()
    assert analyze(graph_module.eval(), F.cross_entropy, BATCHES)["stem.0"].matrix == "splitting"
    assert analyze(graph_module.train(), F.cross_entropy, BATCHES)["stem.0"].matrix == "branch"


def test_autocast_and_half_precision_models_are_solved_in_float32():
    graph_module = _traced().eval()
    exact = analyze(graph_module, F.cross_entropy, BATCHES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = analyze(graph_module, F.cross_entropy, BATCHES)
    half = analyze(_traced().eval().bfloat16(), F.cross_entropy, [(x.bfloat16(), t) for x, t in BATCHES])
    for scores in (mixed, half):
        for path in exact:
            assert scores[path].eigenvectors.dtype == torch.float32
            error = (scores[path].values - exact[path].values).norm() / exact[path].values.norm()
            # bfloat16 has 8 bits, 0.4 %; a score is a sum of products with both signs, which costs up to a digit more
            assert float(error) < 0.15, path


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_inside_a_leaf(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(5, 5), nn.Tanh())

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, path):
            return isinstance(module, Checkpointed) or super().is_leaf_module(module, path)

    model = nn.Sequential(nn.Linear(3, 5), Checkpointed(), nn.Linear(5, 4))
    graph_module = torch.fx.GraphModule(model, Tracer().trace(model))
    batches = [(Draws(seed, torch.float32).normal(6, 3), TARGET[:6]) for seed in range(2)]
    if reentrant:
        with pytest.raises(AnalysisError, match="use_reentrant=False"):
            analyze(graph_module, F.cross_entropy, batches)
    else:
        assert set(analyze(graph_module, F.cross_entropy, batches)) == {"0", "2"}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # raised inside dynamo
def test_a_block_compiled_in_place_is_run_as_it_is():
    graph_module = _traced().eval()
    expected = analyze(graph_module, F.cross_entropy, BATCHES)
    graph_module.mlp.get_submodule("0").compile(backend="eager")
    compiled = analyze(graph_module, F.cross_entropy, BATCHES)
    for path in expected:
        torch.testing.assert_close(compiled[path].values, expected[path].values, rtol=1e-4, atol=1e-7)


@pytest.mark.skipif(not dist.is_available() or sys.platform == "win32", reason="needs gloo")
def test_distributed_data_parallel_is_unwrapped(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        graph_module = _traced()
        wrapped = nn.parallel.DistributedDataParallel(graph_module)
        _same(
            analyze(wrapped, F.cross_entropy, BATCHES, score="residual"),
            analyze(graph_module, F.cross_entropy, BATCHES, score="residual"),
        )
    finally:
        dist.destroy_process_group()


def test_a_time_first_layout_counts_images_where_they_are():
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.second(torch.tanh(self.first(x.transpose(0, 1)))).mean(0)

    torch.manual_seed(0)
    model = TimeFirst().double()
    x, target = Draws().normal(8, 5, 3), TARGET[:8]
    graph_module = torch.fx.symbolic_trace(model)
    single = analyze(graph_module, F.cross_entropy, [(x, target)])
    halves = analyze(graph_module, F.cross_entropy, [(x[::2], target[::2]), (x[1::2], target[1::2])])
    for path in single:
        torch.testing.assert_close(single[path].held_out, halves[path].held_out, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(single[path].stderr, halves[path].stderr, rtol=1e-8, atol=1e-12)


def test_where_the_samples_are_not_to_be_seen_a_single_batch_has_no_held_out_values_and_two_have():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 4)

        def forward(self, x):
            return self.first(x.flatten(0, 1)[1:]).mean(0, keepdim=True).expand(x.shape[0], 4)

    graph_module = torch.fx.symbolic_trace(nn.Sequential(Packed()))
    batch = (Draws(0, torch.float32).normal(8, 5, 3), TARGET[:8])
    single = analyze(graph_module, F.cross_entropy, [batch])["0.first"]
    double = analyze(graph_module, F.cross_entropy, [batch, batch])["0.first"]
    assert single.held_out is None
    assert double.held_out is not None
    torch.testing.assert_close(single.values, double.values)
    assert (
        "give at least two batches"
        in analyze(graph_module, F.cross_entropy, [batch], score="gradient").refusals["0.first"]
    )
