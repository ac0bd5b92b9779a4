from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fxgrow.runs import Settings
from fxgrow.runs.forecast import Forecast, Phase, forecast, forecast_notes, spell_time
from fxgrow.runs.run import Run

Tiny = Callable[..., Settings]
NEURONS = {
    "growth.at": [1, 2],
    "growth.samples": 64,
    "growth.include": ["blocks.*.mlp.fc1"],
    "model.arguments.depth": 2,
}
BLOCKS = {"stages.depth": [0.25, 0.5]}


@pytest.mark.parametrize("changes", [NEURONS, BLOCKS, {}], ids=["neurons", "blocks", "no growth"])
def test_sizes_and_moments_are_those_of_the_run_itself(tiny: Tiny, watcher: Any, changes: dict[str, Any]) -> None:
    plan, run = forecast(Run(tiny(changes))), Run(tiny(changes))
    start = (0, run.growing.parameters)
    run.train(watcher)
    events = [(event.epoch * 4 + event.step, event.parameters_after) for event in watcher.events]
    assert [(phase.step, phase.parameters) for phase in plan.phases] == [start, *events]
    assert plan.phases[-1].flops == run.growing.flops
    assert sum(phase.steps for phase in plan.phases) == run.steps


def test_times_are_extrapolated_by_flops_from_the_one_that_is_measured(tiny: Tiny) -> None:
    first, *others = forecast(Run(tiny(BLOCKS))).phases
    assert first.seconds > 0
    for phase in others:
        assert phase.seconds == pytest.approx(first.seconds * phase.flops / first.flops)


def test_memory_is_counted_on_the_graph(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose only saved tensors are known: a linear map keeps its input, ReLU its output."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    monkeypatch.setattr("torch.nn.make_for_the_forecast", make, raising=False)
    changes = {"model.name": "torch.nn:make_for_the_forecast", "model.arguments": {}, "ema": 0.9}
    (phase,) = forecast(Run(tiny(changes))).phases
    parameters = 64 * 32 + 32 + 32 * 10 + 10
    weights = 4 * parameters * 5  # weights, gradients, two moments, an average
    assert phase.memory == pytest.approx(weights + 4 * 64 * (64 + 32), rel=0.01)


def test_a_large_model_grows_once_and_later_events_are_taken_for_like_the_first(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = forecast(Run(tiny(NEURONS)))
    monkeypatch.setattr("fxgrow.runs.forecast._LARGE", 0)
    plan = forecast(Run(tiny(NEURONS)))
    assert [phase.extrapolated for phase in plan.phases] == [False, False, True]
    assert plan.phases[1].parameters == whole.phases[1].parameters
    for found, expected in zip(plan.phases, whole.phases, strict=True):
        assert (found.step, found.steps) == (expected.step, expected.steps)
        assert found.parameters == pytest.approx(expected.parameters, rel=0.02)
        assert found.flops == pytest.approx(expected.flops, rel=0.02)
        assert found.memory == pytest.approx(expected.memory, rel=0.02)


def test_what_depends_on_scores_or_on_fewer_images_is_said() -> None:
    phase = Phase(0, 4, 10, 10, 10, 1.0, extrapolated=True)
    plan = Forecast((phase,), 4, measured_images=64, batch_size=1024, exact=False, compiled=True)
    notes = "\n".join(forecast_notes(plan))
    assert "an eager step of the start, of 64 images of 1024, scaled" in notes
    assert "the run compiles its steps" in notes
    assert "computed as if scores were even" in notes
    assert "the sizes with ~, as if each event were like the first" in notes
    assert max(map(len, forecast_notes(plan))) < 78


def test_a_time_is_spelled_in_its_unit() -> None:
    assert [spell_time(seconds) for seconds in (4, 400, 40_000)] == ["4 s", "6.7 min", "11.1 h"]


def test_planning_moves_no_random_state(tiny: Tiny) -> None:
    before = torch.get_rng_state()
    forecast(Run(tiny({"model.arguments.proj_drop_rate": 0.2})))
    assert torch.equal(before, torch.get_rng_state())
