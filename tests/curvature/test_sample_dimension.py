"""Which rows belong to which sample: the error bars of a score count samples, wherever the model keeps them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxgrow
from fxgrow.curvature import StepRecorder
from fxgrow.curvature.batches import Batch
from fxgrow.curvature.sample_dimension import SampleDimension, find_sample_dimensions, samples_in_front
from fxgrow.testing import Draws

IMAGES, LENGTH, WIDTH = 4, 6, 8
X = Draws(dtype=torch.float32).normal(IMAGES, LENGTH, WIDTH)
ARRANGEMENTS = {
    "in front": (lambda x: x, SampleDimension(0)),
    "windows": (lambda x: x.reshape(-1, 3, WIDTH), SampleDimension(0)),
    "time first": (lambda x: x.transpose(0, 1), SampleDimension(1)),
    "folded, time first": (lambda x: x.transpose(0, 1).reshape(-1, WIDTH), SampleDimension(0, outer=False)),
    "mixed": (lambda x: x + x.mean(0), None),
}


class Arranged(nn.Module):
    def __init__(self, arrange) -> None:
        super().__init__()
        self.arrange = arrange
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.arrange(x))


def _input_of_the_site(graph_module: fx.GraphModule) -> fx.Node:
    return next(node.args[0] for node in graph_module.graph.nodes if node.target == "linear")


@pytest.mark.parametrize(("arrange", "expected"), ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_images_are_found_and_brought_to_the_front(arrange, expected: SampleDimension | None) -> None:
    graph_module = fx.symbolic_trace(Arranged(arrange))
    x = X
    node = _input_of_the_site(graph_module)
    dimensions = find_sample_dimensions(graph_module, [node], Batch(0, (x,), None, len(x)))
    assert dimensions == {node: expected}
    value, parts = samples_in_front(arrange(x), expected, IMAGES, 0)
    if expected is None:
        assert parts == 1
    else:
        assert parts == IMAGES
        assert torch.equal(value.reshape(IMAGES, LENGTH, WIDTH), x)


def test_images_that_begin_alike_are_told_apart() -> None:
    x = X.clone()
    x[:, : LENGTH // 2] = 0
    graph_module = fx.symbolic_trace(Arranged(lambda x: x.transpose(0, 1)))
    node = _input_of_the_site(graph_module)
    assert find_sample_dimensions(graph_module, [node], Batch(0, (x,), None, len(x))) == {node: SampleDimension(1)}


def test_they_are_taken_to_be_in_front_where_the_data_tell_nothing() -> None:
    graph_module = fx.symbolic_trace(Arranged(lambda x: x.view(IMAGES, LENGTH, WIDTH)))
    node = _input_of_the_site(graph_module)
    for x in (torch.ones_like(X), X):  # alike; a fixed batch size
        assert find_sample_dimensions(graph_module, [node], Batch(0, (x,), None, len(x))) == {node: SampleDimension(0)}


def test_looking_for_images_leaves_no_trace() -> None:
    model = nn.Sequential(nn.BatchNorm1d(LENGTH), nn.Dropout(), nn.Linear(WIDTH, WIDTH)).train()
    graph_module = fx.symbolic_trace(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = Batch(0, (X,), None, IMAGES)
    state = torch.get_rng_state()
    find_sample_dimensions(graph_module, list(graph_module.graph.nodes)[:-1], batch)
    assert all(torch.equal(value, before[name]) for name, value in graph_module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in graph_module.modules())


class WithTorchsAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(WIDTH, 2, batch_first=True), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


class WithOwnAttention(nn.Module):
    """The same function, with the samples in front all the way."""

    def __init__(self, other: WithTorchsAttention) -> None:
        super().__init__()
        self.qkv, self.proj, self.head = nn.Linear(WIDTH, 3 * WIDTH), other.attention.out_proj, other.head
        self.qkv.weight, self.qkv.bias = other.attention.in_proj_weight, other.attention.in_proj_bias

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return self.head((x + self.proj(mixed)).mean(1))


@pytest.mark.filterwarnings("ignore::fxgrow.curvature.FewSamplesWarning")
@pytest.mark.parametrize("in_a_step", [False, True], ids=["analyze", "StepRecorder"])
def test_scores_do_not_depend_on_how_torch_arranges_the_samples(in_a_step: bool) -> None:
    torch.manual_seed(0)
    model = WithTorchsAttention().double()
    x, target = Draws().normal(12, LENGTH, WIDTH), torch.arange(12) % 3
    found = []
    for each in (model, WithOwnAttention(model)):
        traced = fxgrow.trace(each, x)
        if in_a_step:
            recorder = StepRecorder(traced)
            F.cross_entropy(recorder(x), target).backward()
            found.append(recorder.scores())
        else:
            found.append(fxgrow.analyze(traced, F.cross_entropy, [(x, target)]))
    for path, own_path in (("attention.in_proj_weight", "qkv"), ("attention.out_proj", "proj")):
        for name in ("eigenvalues", "held_out", "stderr"):
            value, own = getattr(found[0][path], name), getattr(found[1][own_path], name)
            torch.testing.assert_close(value, own, rtol=1e-9, atol=1e-12)
