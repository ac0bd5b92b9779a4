"""The first hidden units and heads of a model run, as slices of the tensors that hold all of them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.progressive import Progressive, Stage
from tests.progressive.conftest import data, fill, model, train


class Attention(nn.Module):
    """Attention with a fused qkv, four heads of three."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, 3)).permute(2, 0, 3, 1, 4).unbind(0)
        return x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Convolution(nn.Module):
    """A bottleneck with statistics in the hidden width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.bn(self.conv1(x))))


class Functional(nn.Module):
    """A hidden layer whose weights the graph reads itself."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.empty(6, 4)), nn.Parameter(torch.empty(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.linear(F.gelu(F.linear(x, self.up)), self.down)


class Conv1D(nn.Module):
    """The linear map of GPT-2, which spells its width as the end of a size."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.outputs, self.weight = outputs, nn.Parameter(torch.empty(width, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        size = x.size()[:-1] + (self.outputs,)  # noqa: RUF005  # as it is spelled there
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size)


class Spelled(nn.Module):
    """A residual MLP of such maps."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = Conv1D(4, 6), Conv1D(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(x)))


CASES = {
    "spelled": (lambda: fill(nn.Sequential(Spelled(), Spelled()).double()), (3, 2, 4)),
    "mlp": (model, (6, 5)),
    "attention": (lambda: fill(nn.Sequential(Attention(), Attention()).double()), (2, 5, 12)),
    "convolution": (lambda: fill(nn.Sequential(Convolution(), Convolution()).double()), (3, 4, 5, 5)),
    "functional": (lambda: fill(Functional().double()), (3, 4)),
}


def growing_in_width(case: str) -> tuple[Progressive, Tensor]:
    make, shape = CASES[case]
    x = torch.linspace(-1, 1, int(torch.Size(shape).numel()), dtype=torch.float64).sin().reshape(shape)
    return Progressive(make(), x, width=0.5), x


def test_the_first_units_run() -> None:
    growing, x = growing_in_width("mlp")
    whole = growing.model
    h = whole.stem(x)
    for block in whole.blocks:
        hidden = F.gelu(F.linear(block.norm(h), block.fc1.weight[:6], block.fc1.bias[:6]))
        h = h + F.linear(hidden, block.fc2.weight[:, :6], block.fc2.bias)
    torch.testing.assert_close(growing(x), whole.head(h), rtol=1e-12, atol=1e-12)


def test_the_first_heads_run() -> None:
    growing, x = growing_in_width("attention")
    h = x
    for layer in growing.model:
        rows = torch.tensor([36 // 3 * part + unit for part in range(3) for unit in range(6)])
        qkv = F.linear(layer.norm(h), layer.qkv.weight[rows], layer.qkv.bias[rows])
        q, k, v = qkv.unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h + F.linear(mixed, layer.proj.weight[:, :6], layer.proj.bias)
    torch.testing.assert_close(growing(x), h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_units_wake_without_a_change_of_the_function_and_learn_at_once(case: str) -> None:
    growing, x = growing_in_width(case)
    growing.eval()
    before = growing(x)
    growing.advance()
    torch.testing.assert_close(growing(x), before, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(growing.model(x), before, rtol=1e-11, atol=1e-11)
    growing(x).square().sum().backward()
    outgoing = {"mlp": "blocks.0.fc2.weight", "attention": "0.proj.weight", "convolution": "0.conv2.weight"}
    gradient = growing.get_parameter({**outgoing, "spelled": "0.down.weight"}.get(case, "down")).grad
    assert gradient is not None
    by_output = gradient.T if case == "spelled" else gradient
    assert by_output[:, by_output.shape[1] // 2 :].ne(0).all()


@pytest.mark.parametrize("case", ["mlp", "convolution"])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_idle_units_are_neither_moved_nor_decayed(case: str, optimizer: type[torch.optim.Optimizer]) -> None:
    growing, x = growing_in_width(case)
    before = copy.deepcopy(growing.model)
    trained = optimizer(growing.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        trained.zero_grad()
        growing(x).square().mean().backward()
        trained.step()
    up, down = ("blocks.0.fc1", "blocks.0.fc2") if case == "mlp" else ("0.conv1", "0.conv2")
    half = before.get_parameter(f"{up}.weight").shape[0] // 2
    for name, dim in ((f"{up}.weight", 0), (f"{up}.bias", 0), (f"{down}.weight", 1)):
        old, new = before.get_parameter(name), growing.get_parameter(name)
        assert torch.equal(old.narrow(dim, half, half), new.narrow(dim, half, half)), name
        assert not torch.equal(old.narrow(dim, 0, half), new.narrow(dim, 0, half)), name


def test_statistics_of_running_channels_move_and_of_idle_ones_do_not() -> None:
    growing, x = growing_in_width("convolution")
    growing(x)
    mean = growing.get_buffer("0.bn.running_mean")
    assert mean[:3].ne(0).all()
    assert not mean[3:].any()
    assert growing.get_buffer("0.bn.num_batches_tracked") == 1


def test_depth_and_width_wake_together() -> None:
    growing = Progressive(model(), data()[0], stages=[Stage(depth=0.5, width=0.5), Stage(depth=0.5), Stage()])
    optimizer = torch.optim.AdamW(growing.parameters(), lr=1e-2)
    for _ in range(2):
        train(growing, optimizer, 2)
        growing.advance()
    x = data()[0]
    assert torch.equal(growing(x), growing.model(x))
    sizes = [cost.parameters for cost in growing.costs().stages]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("case", ["functional", "spelled"])
def test_costs_count_the_part_that_runs_of_parameters_that_the_graph_reads_itself(case: str) -> None:
    first, last = growing_in_width(case)[0].costs().stages
    weights_and_biases = {"functional": (2 * 12, 2 * 24), "spelled": (2 * (2 * 12 + 3 + 4), 2 * (2 * 24 + 6 + 4))}
    assert (first.parameters, last.parameters) == weights_and_biases[case]


def test_depth_and_width_wake_together_where_the_graph_spells_sizes() -> None:
    make, shape = CASES["spelled"]
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).sin().reshape(shape)
    growing = Progressive(make(), x, stages=[Stage(0.5, 0.5), Stage(0.5)])
    assert growing.idle == ("1",)
    growing.advance()
    growing.advance()
    assert torch.equal(growing(x), growing.model(x))


def test_a_part_of_the_width_compiles_without_a_break() -> None:
    growing, x = growing_in_width("convolution")
    expected = growing(x)
    growing.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(growing(x), expected, rtol=1e-10, atol=1e-10)
