import copy
import itertools
from typing import Any

import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

import fxgrow
from fxgrow.errors import AnalysisError, FxgrowError, PlanError, VerificationError
from fxgrow.primitives.modules import parameter_count
from fxgrow.testing import Draws
from fxgrow.training import Grower
from fxgrow.training import events as module
from fxgrow.training.schedule import growth_epochs

# torch looks at .grad of the inputs of a compiled function, and hides the warning only where it is no error
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.act, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.fc2(self.act(self.fc1(self.norm(x)))))


def traced_model() -> fx.GraphModule:
    torch.manual_seed(0)
    layers = {"embed": nn.Linear(6, 8), "blocks": nn.Sequential(Block(), Block()), "head": nn.Linear(8, 4)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return fx.symbolic_trace(model)


def batches(count: int = 4, size: int = 64) -> list[tuple[Tensor, Tensor]]:
    inputs = Draws(dtype=torch.float32).normal(count * size, 6)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).long() + 2 * (inputs[:, 2].abs() > 0.7).long()
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def make(traced: fx.GraphModule, **options: Any) -> Grower:
    optimizer = AdamW(traced.parameters(), lr=0.01)
    return Grower(traced, F.cross_entropy, optimizer, **{"compile": False, **options})


def train(grower: Grower, epochs: int = 1, scheduler: Any = None) -> float:
    for _ in range(epochs):
        for inputs, labels in batches():
            loss = F.cross_entropy(grower.model(inputs), labels)
            grower.optimizer.zero_grad()
            loss.backward()
            grower.optimizer.step()
            if scheduler is not None:
                scheduler.step()
    return loss.item()


def test_a_growth_event_leaves_the_loss_and_reports_what_grew() -> None:
    traced = traced_model()
    grower = make(traced, budget=0.5, at=(2,))
    train(grower)
    report = grower.grow(batches(), context={"epoch": 2})
    assert report.loss_after == pytest.approx(report.loss_before, abs=1e-6)
    assert report.event == grower.history[-1]
    assert report.event.context == {"epoch": 2, "loss_before": report.loss_before, "loss_after": report.loss_after}
    assert report.event.parameters_after == parameter_count(grower.graph_module)
    assert grower.graph_module is grower.model.graph_module is traced
    assert set(report.scores) >= {site.site for site in report.event.growths}


def test_the_optimizer_holds_every_parameter_once_and_training_goes_on() -> None:
    grower = make(traced_model(), budget=0.5, at=(1, 2))
    scheduler = OneCycleLR(grower.optimizer, max_lr=0.02, total_steps=64)
    first = train(grower, scheduler=scheduler)
    for _ in range(2):
        grower.grow(batches())
        held = [id(parameter) for group in grower.optimizer.param_groups for parameter in group["params"]]
        assert sorted(held) == sorted(id(parameter) for parameter in grower.graph_module.parameters())
        last = train(grower, epochs=4, scheduler=scheduler)
    # from log 4, which is to know nothing, to labels of which two layers learn half in these steps
    assert last < 0.9 * first


def test_one_budget_is_shared_over_the_events() -> None:
    traced = traced_model()
    total = int(0.6 * parameter_count(traced))
    grower = make(traced, budget=0.6, at=(1, 2, 3))
    added = []
    for epoch in range(5):
        if grower.due(epoch):
            event = grower.grow(batches()).event
            added.append(event.parameters_after - event.parameters_before)
    assert len(added) == 3
    assert max(added) <= 1.2 * total / 3
    assert 0.9 * total <= sum(added) <= total
    assert grower.remaining == total - sum(added)


def test_an_event_may_be_given_its_own_budget() -> None:
    grower = make(traced_model(), budget=300, at=(1, 2))
    event = grower.grow(batches(), budget=200).event
    assert 100 < event.parameters_after - event.parameters_before <= 200
    with pytest.raises(PlanError, match=r"growth event 2: 200 parameters are asked for and 1?\d\d remain"):
        grower.grow(batches(), budget=200)


def test_a_spent_budget_is_refused() -> None:
    grower = make(traced_model(), budget=300)
    grower._purse.total = 0
    with pytest.raises(PlanError, match="0 remain of the whole budget; give the Grower a larger budget"):
        grower.grow(batches())


def test_only_included_sites_grow() -> None:
    grower = make(traced_model(), budget=0.2, include=("blocks.*.fc1",))
    report = grower.grow(batches())
    assert {site.site for site in report.event.growths} == set(report.scores) == {"blocks.0.fc1", "blocks.1.fc1"}


def test_the_compiled_form_follows() -> None:
    grower = make(traced_model(), budget=0.3, compile=True, compile_options={"backend": "eager", "fullgraph": True})
    train(grower)
    grower.grow(batches())
    grower.model.eval()
    inputs = batches()[0][0]
    torch.testing.assert_close(grower.model(inputs), grower.graph_module(inputs))
    assert grower.model.runner.pieces == ("", "blocks.0", "blocks.1", "")


def test_growing_leaves_the_mode_and_the_global_random_state() -> None:
    for training in (True, False):
        grower = make(traced_model(), budget=0.3)
        grower.graph_module.train(training)
        state = torch.get_rng_state()
        grower.grow(batches())
        assert torch.equal(state, torch.get_rng_state())
        assert all(part.training == training for part in grower.graph_module.modules())


def test_the_same_seed_grows_the_same_model() -> None:
    histories = []
    for seed in (0, 0, 1):
        grower = make(traced_model(), budget=0.3, seed=seed)
        grower.grow(batches())
        names = [name for name in fxgrow.new_parameters(grower.graph_module) if name.endswith("weight")]
        histories.append((grower.history, [grower.graph_module.get_parameter(name).clone() for name in names]))
    assert histories[0][0] == histories[1][0]
    assert all(torch.equal(a, b) for a, b in zip(histories[0][1], histories[1][1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(histories[0][1], histories[2][1], strict=True))


def test_an_iterator_is_read_once_and_no_further_than_needed() -> None:
    stream = iter(itertools.cycle(batches()))
    grower = make(traced_model(), budget=0.3, max_samples=256)
    assert grower.grow(stream).scores.samples == 256


def test_a_grown_model_with_another_loss_is_refused_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = traced_model()
    grower = make(traced, budget=0.3)
    state = copy.deepcopy(grower.optimizer.state_dict())

    def break_it(*arguments: Any, **options: Any) -> fx.GraphModule:
        grown = fxgrow.grow(*arguments, **options)
        for name, parameter in fxgrow.new_parameters(grown).items():
            if name.endswith("bias"):
                nn.init.constant_(parameter, 3.0)
        for parameter in fxgrow.new_parameters(grown).values():
            nn.init.normal_(parameter)
        return grown

    monkeypatch.setattr(module, "grow", break_it)
    with pytest.raises(VerificationError, match="growth: the loss on the same batch is"):
        grower.grow(batches())
    assert parameter_count(grower.model) == parameter_count(traced_model())
    assert grower.optimizer.state_dict() == state
    assert grower.history == ()


def test_an_optimizer_that_lacks_the_site_is_refused_and_nothing_changes() -> None:
    traced = traced_model()
    grower = Grower(traced, F.cross_entropy, AdamW(traced.head.parameters()), budget=0.3, compile=False)
    with pytest.raises(PlanError, match="the optimizer does not hold this parameter"):
        grower.grow(batches())
    assert parameter_count(grower.model) == parameter_count(traced_model())
    assert grower.remaining == int(0.3 * parameter_count(traced))


def test_empty_batches_are_refused() -> None:
    with pytest.raises(AnalysisError, match="there is no batch"):
        make(traced_model()).grow([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": -1}, "budget -1: it is not a positive number"),
        ({"score": "eigne"}, "eigne"),
        ({"operator": "seriel"}, "seriel"),
        ({"allocation": "evn"}, "evn"),
        ({"at": (3, -1)}, r"at: \(3, -1\) are not all epochs or steps"),
        ({"at": (3, 3)}, r"at: \(3, 3\) has a time twice"),
    ],
)
def test_bad_options_are_refused_at_the_door(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FxgrowError, match=message):
        make(traced_model(), **options)


def test_a_schedule_is_even_and_leaves_time_to_learn() -> None:
    assert growth_epochs(40, 3) == (10, 17, 24)
    assert growth_epochs(100, 1) == (25,)
    assert growth_epochs(5, 3) == (1, 2, 3)


@pytest.mark.parametrize(("epochs", "events"), [(3, 3), (40, 0), (1, 1)])
def test_a_schedule_that_does_not_fit_is_refused(epochs: int, events: int) -> None:
    with pytest.raises(PlanError, match="the growth schedule"):
        growth_epochs(epochs, events)
