"""Capacity goes where it can learn: what no gradient of the loss reaches does not grow, by any score or allocation."""

import io

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, fx, nn

import fxgrow
from fxgrow.curvature import Scores, StepRecorder, score_names
from fxgrow.errors import PlanError
from fxgrow.growth.allocation import ALLOCATIONS
from fxgrow.inspection import to_text, view_node, view_tree
from fxgrow.operators import available_operators
from fxgrow.record.annotations import NO_GRADIENT
from fxgrow.testing.draws import Draws
from fxgrow.testing.samples import sample_models

pytestmark = pytest.mark.filterwarnings("ignore::fxgrow.curvature.FewSamplesWarning")
DEAD = (0, 3, 7)


class WithDeadParts(nn.Module):
    """`unused` is read by nothing, `cut` is detached, `auxiliary` is a head that the loss does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.unused, self.cut, self.auxiliary = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        with torch.no_grad():
            self.inner.bias[list(DEAD)] = -50.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.first(x))
        torch.relu(self.inner(self.unused(hidden)))
        offset = torch.relu(self.cut(hidden)).detach()
        hidden = torch.relu(self.inner(hidden + offset))
        return self.last(hidden), self.auxiliary(hidden)


def _loss(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    return F.mse_loss(output[0], target)


DRAWS = Draws(0, torch.float64)
BATCHES = [(DRAWS.normal(60, 6), DRAWS.normal(60, 3)) for _ in range(2)]


def _traced() -> fx.GraphModule:
    torch.manual_seed(0)
    return torch.fx.symbolic_trace(WithDeadParts().double())


def _scores(traced: fx.GraphModule, score: str) -> Scores:
    options = {"metric": "fisher", "candidates": 2} if score == "gain" else {}
    return fxgrow.analyze(traced, _loss, BATCHES, score=fxgrow.curvature.find_score(score)(**options), iterations=4)


@pytest.mark.parametrize("score", score_names())
def test_every_score_says_where_no_gradient_arrives(score: str) -> None:
    scores = _scores(_traced(), score)
    for path in ("unused", "cut", "auxiliary"):
        assert scores.refusals[path] == NO_GRADIENT
    if "inner" in scores:
        reached = scores["inner"].reached
        assert reached is not None
        assert [row for row in range(8) if not reached[row]] == list(DEAD)
        assert scores["inner"].eligible == 5
        assert not bool(scores["inner"].significant[list(DEAD)].any())


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("score", ["eigen", "gradient", "uniform"])
def test_no_allocation_grows_there_however_large_the_budget(score: str, allocation: str) -> None:
    traced = _traced()
    plan = fxgrow.plan(traced, _scores(traced, score), budget=100_000, allocation=allocation, operator="branch")
    assert set(plan.rows) <= {"first", "inner"}
    assert set(plan.rows.get("inner", ())).isdisjoint(DEAD)


def test_asking_for_such_a_site_by_name_gives_the_reason() -> None:
    traced = _traced()
    scores = _scores(traced, "eigen")
    with pytest.raises(PlanError, match=f"cut: it has no score: {NO_GRADIENT}"):
        fxgrow.plan(traced, scores, include=["cut"])
    with pytest.raises(PlanError, match=f"no site is left to grow .*{NO_GRADIENT}"):
        fxgrow.plan(traced, scores, include=["*"], exclude=["first", "inner", "last"])


def test_inspect_shows_it(tmp_path) -> None:
    traced = fxgrow.trace(WithDeadParts().double(), BATCHES[0][0])
    _scores(traced, "eigen")
    fxgrow.save(traced, tmp_path / "model.pt")
    loaded = fxgrow.load(tmp_path / "model.pt", base=WithDeadParts().double())
    for graph_module in (traced, loaded):
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(to_text(view_tree(graph_module)))
        console.print(to_text(view_node(graph_module, "inner")))
        shown = console.export_text()
        assert shown.count(f"cannot grow: {NO_GRADIENT}") == 3
        assert "no gradient of the loss reaches neurons 0, 3, 7" in shown
    assert Scores.from_annotations(loaded).refusals == {
        "unused": NO_GRADIENT,
        "cut": NO_GRADIENT,
        "auxiliary": NO_GRADIENT,
    }


def test_a_recorded_step_says_the_same() -> None:
    traced = _traced()
    recorder = StepRecorder(traced, sites=["first", "inner", "last"])
    for x, target in BATCHES:
        _loss(recorder(x), target).backward()
    reached = recorder.scores()["inner"].reached
    assert reached is not None
    assert [row for row in range(8) if not reached[row]] == list(DEAD)


def test_what_starts_behind_a_zero_weight_may_grow() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    nn.init.zeros_(model[3].weight)
    traced = torch.fx.symbolic_trace(model)
    before = {name: value.clone() for name, value in traced.state_dict().items()}
    scores = fxgrow.analyze(traced, F.mse_loss, BATCHES)
    assert scores.refusals == {}
    assert scores["2"].eligible == 8
    assert all(torch.equal(value, before[name]) for name, value in traced.state_dict().items())


def _rows(module: nn.Module, moved: Tensor) -> Tensor:
    """Return what belongs to each output, the outputs in front; transposed convolutions have them second."""
    if isinstance(module, nn.ConvTranspose2d) and moved.ndim > 1:
        moved = moved.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(0, 1)
    return moved.reshape(max(moved.shape[:1], default=1), -1)


def _train(model: fx.GraphModule, inputs: Tensor, target: Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(inputs)
        F.mse_loss(output, target.expand_as(output)).backward()
        optimizer.step()


@pytest.mark.parametrize("operator", available_operators())
@pytest.mark.parametrize("name", sample_models())
def test_every_new_tensor_moves_in_two_steps_and_every_new_row_in_ten(name: str, operator: str) -> None:
    model, (inputs,) = sample_models()[name].make(batch_size=16, dtype=torch.float64)
    traced = fxgrow.trace(model, inputs).eval()  # in train mode a BatchNorm takes out the bias before it, new or old
    output = traced(inputs)
    target = Draws(1, torch.float64).normal(*output.shape)
    scores = fxgrow.analyze(traced, F.mse_loss, [(inputs, target)] * 2, iterations=4)
    grown = fxgrow.grow(traced, scores, budget=0.3, operator=operator)
    new = fxgrow.new_parameters(grown)
    start = {name: value.detach().clone() for name, value in new.items()}
    _train(grown, inputs, target, 2)
    still = [name for name, value in new.items() if torch.equal(value, start[name])]
    assert not still
    _train(grown, inputs, target, 8)
    for name, value in new.items():
        module = grown.get_submodule(name.rpartition(".")[0])
        assert bool(_rows(module, value != start[name]).any(1).all()), name
