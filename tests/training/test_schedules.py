"""When growth is due, and what each event may spend."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_runs import probe, traced
from torch import optim

from fxgrow.errors import PlanError
from fxgrow.execution.shapes import flops_per_sample
from fxgrow.growth import Budget
from fxgrow.training import At, Every, Grower, Plateau, Schedule, Significance


def times(schedule: Schedule, until: int, *, fails: frozenset[int] = frozenset()) -> list[int]:
    """Return when a loop grows that asks at each time; events at `fails` fail."""
    grown: list[int] = []
    for now in range(until):
        if schedule.due(now, len(grown), None, lambda: math.nan) and now not in fails:
            grown.append(now)
    return grown


def test_given_times_and_equal_steps() -> None:
    assert times(At((3, 5)), 9) == [3, 5]
    assert times(Every(30, after=50), 145) == [50, 80, 110, 140]
    assert times(Every(2, after=1, events=3), 20) == [1, 3, 5]


def test_an_event_that_failed_is_due_until_it_happens() -> None:
    assert times(At((3, 5)), 9, fails=frozenset({3})) == [4, 5]
    assert times(Every(4, after=4), 13, fails=frozenset({4, 5, 8})) == [6, 9, 12]


def test_a_plateau_is_one_of_the_metric_and_is_watched_anew_after_an_event() -> None:
    schedule, grown = Plateau(patience=2, mode="max", after=1, events=2), []
    for now, metric in enumerate([1.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 5.0, 5.0, 5.0]):
        asked = [schedule.due(now, len(grown), metric, lambda: math.nan) for _ in range(2)]
        assert asked[0] == asked[1]  # asking twice counts once
        if asked[0]:
            grown.append(now)
    assert grown == [3, 6]


def test_significance_is_measured_every_so_often() -> None:
    measured: list[int] = []

    def share(now: int) -> float:
        measured.append(now)
        return now / 10

    schedule = Significance(0.6, every=3, after=2)
    assert [now for now in range(10) if schedule.due(now, 0, None, lambda now=now: share(now))] == [6, 9]
    assert measured == [3, 6, 9]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Every(0),
        lambda: Every("2"),  # type: ignore[arg-type]
        lambda: Every(2, events=0),
        lambda: Every(2, after=math.nan),
        lambda: Significance(0.0),
        lambda: Significance("all"),  # type: ignore[arg-type]
        lambda: Plateau(0),
        lambda: Plateau(2, mode="least"),  # type: ignore[arg-type]
        lambda: Plateau(2, threshold=-1),
        lambda: At((1, 1)),
        lambda: At((-1,)),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlanError):
        wrong()


def make(**options: object) -> Grower:
    model = traced()
    return Grower(model, F.cross_entropy, optim.SGD(model.parameters(), 0.01), compile=False, **options)  # type: ignore[arg-type]


def test_a_grower_measures_significance_on_the_data_of_the_loop() -> None:
    grower = make(at=Significance(1e-6, every=2))
    assert not grower.due(1, batches=probe())
    assert isinstance(grower.due(2, batches=probe()), bool)
    with pytest.raises(PlanError, match="significance is measured on data, and none is given"):
        grower.due(2)
    with pytest.raises(PlanError, match="a plateau is one of a metric, and none is given"):
        make(at=Plateau(2)).due(0)


@pytest.mark.parametrize(
    ("now", "metric", "message"),
    [
        ("3", 1.0, "now: it is a str; give a number"),
        (math.nan, 1.0, "now: it is nan"),
        (1, "loss", "metric: it is a str; give a number or None"),
    ],
)
def test_what_is_no_moment_is_refused(now, metric, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlanError, match=message):
        make(at=Plateau(2)).due(now, metric=metric)


@pytest.mark.parametrize("number", [float, torch.tensor, np.float32])
def test_a_metric_is_a_number_of_any_library(number) -> None:  # type: ignore[no-untyped-def]
    grower = make(at=Plateau(1))
    assert [grower.due(now, metric=number(loss)) for now, loss in enumerate([2.0, 1.0, 1.0])] == [False, False, True]


def test_each_event_spends_its_own_budget_at_most_and_all_together_the_whole() -> None:
    grower = make(at=Every(1), budget=Budget(200, per_event=80), score="random")
    added = []
    while grower.remaining > 60:
        event = grower.grow(probe()).event
        added.append(event.parameters_after - event.parameters_before)
    assert max(added) <= 80
    assert sum(added) + grower.remaining == 200


def test_a_budget_of_flops_is_shared_over_the_events_and_counted_from_the_history() -> None:
    grower = make(at=(0, 1), budget=Budget(0.6, unit="flops"), score="random")
    base = flops_per_sample(grower.graph_module)
    whole = grower.remaining
    assert whole == int(0.6 * base)
    for _ in range(2):
        grower.grow(probe())
        assert grower.remaining == whole - (flops_per_sample(grower.graph_module) - base) >= 0
    again = Grower(
        grower.graph_module,
        F.cross_entropy,
        grower.optimizer,
        budget=Budget(0.6, unit="flops"),
        compile=False,
    )
    assert again.remaining == grower.remaining
    assert torch.is_tensor(grower.model.state_dict()["_extra_state"])
