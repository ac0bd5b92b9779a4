from itertools import pairwise

import pytest
import torch
from torch import nn

from fxgrow.errors import PlanError
from fxgrow.training import CosineCycles


def rates(steps: int, **options: object) -> list[float]:
    """Return the learning rate of every step of a training, with a unit rate."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = CosineCycles(optimizer, steps, **options)  # type: ignore[arg-type]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_one_cycle_warms_up_and_falls() -> None:
    found = rates(101)
    assert found[0] == pytest.approx(0.1)
    assert found[9] == found[10] == pytest.approx(1.0)
    assert found[100] == pytest.approx(0.01, abs=1e-3)
    assert all(before >= after for before, after in pairwise(found[10:]))


def test_a_rate_that_is_held_stays_at_its_peak_before_it_falls() -> None:
    found = rates(100, hold=0.7, last=0.0)
    assert found[:10] == rates(100)[:10]
    assert found[10:71] == [1.0] * 61
    assert found[85] == pytest.approx(0.5)
    assert all(before > after for before, after in pairwise(found[70:]))
    assert rates(100, hold=0.05) == rates(100)  # inside the warm-up
    assert rates(100, hold=1.0)[10:] == [1.0] * 90
    assert rates(200, hold=0.7, peaks=(1, 2)) == rates(100, hold=0.7) + [2 * rate for rate in rates(100, hold=0.7)]


@pytest.mark.parametrize("shares", [{"hold": 1.5}, {"hold": -0.1}, {"warm_up": 2}, {"last": -1}])
def test_shares_are_between_zero_and_one(shares: dict[str, float]) -> None:
    with pytest.raises(PlanError, match=f"{next(iter(shares))}="):
        rates(10, **shares)


def test_two_cycles_are_one_after_the_other_at_their_own_peaks() -> None:
    assert rates(200, peaks=(1, 2)) == rates(100) + [2 * rate for rate in rates(100)]


def test_cycles_that_do_not_divide_the_steps_fill_them() -> None:
    found = rates(50, peaks=(1, 1, 1))
    assert [step for step in range(1, 50) if found[step] > 5 * found[step - 1]] == [17, 33]


def test_a_group_that_comes_later_follows_its_own_initial_rate() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = CosineCycles(optimizer, 20)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 3.0, "initial_lr": 3.0})
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    old, new = (group["lr"] for group in optimizer.param_groups)
    assert new == pytest.approx(3 * old)


def test_a_resumed_schedule_goes_on_where_it_was() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    first, second = (torch.optim.SGD([parameter], lr=1.0) for _ in range(2))
    scheduler = CosineCycles(first, 30, peaks=(1, 2))
    for _ in range(17):
        first.step()
        scheduler.step()
    resumed = CosineCycles(second, 30, peaks=(1, 2))
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for optimizer, schedule in ((first, scheduler), (second, resumed)):
        optimizer.step()
        schedule.step()
    assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"]


@pytest.mark.parametrize("options", [{"peaks": ()}, {"peaks": (0,)}, {"warm_up": 2}, {"last": -1}])
def test_numbers_out_of_their_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(PlanError, match="it makes no schedule"):
        rates(10, **options)


@pytest.mark.parametrize("options", [{"peaks": 2}, {"peaks": "12"}, {"peaks": (1, float("nan"))}, {"warm_up": "a"}])
def test_what_is_no_number_is_refused_by_its_name(options: dict[str, object]) -> None:
    with pytest.raises(PlanError, match=f"{next(iter(options))}: it is"):
        rates(10, **options)


def test_what_is_no_optimizer_is_refused() -> None:
    with pytest.raises(PlanError, match="NoneType: it is no optimizer"):
        CosineCycles(None, 10)  # type: ignore[arg-type]


def test_more_cycles_than_steps_are_refused() -> None:
    with pytest.raises(PlanError, match="2 steps are too few for 3 cycles"):
        rates(2, peaks=(1, 1, 1))
