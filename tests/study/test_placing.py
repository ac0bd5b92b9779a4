"""Arms that differ only in where they grow have equal parameters, and equal cost or equal FLOPs."""

import pytest
from study import equal, placing
from study.arms import Arm
from study.costs import flops
from study.rewrites import Site
from study.state import State, initial
from study.tasks import TASKS, Task

WITH_ATTENTION = [TASKS["text"], TASKS["warped-digits"]]


def _stages(task: Task, arm: Arm) -> list[State]:
    state = initial(task.architecture, arm.start, (0,))
    (event,) = arm.events
    return [state, event.rewrite(state, Site(task.architecture, (0,), event.at, lambda: pytest.fail("nothing drawn")))]


def _spent(task: Task, arm: Arm, price: str) -> float:
    (event,) = arm.events
    steps = (event.at, arm.steps - event.at)
    each = [
        state.parameters() if price == "cost" else flops(task.architecture, state.shapes)
        for state in _stages(task, arm)
    ]
    whole = [round(share * task.batch) / task.batch for share in (arm.shares()[0], arm.shares()[-1])]
    return sum(own * count * share for own, count, share in zip(each, steps, whole, strict=True))


@pytest.mark.parametrize("task", WITH_ATTENTION, ids=lambda task: task.name)
def test_kinds_of_branches_are_equal_in_cost_or_in_flops(task: Task) -> None:
    by_parameters, by_flops = placing.kinds(task), placing.kinds_at_equal_flops(task)
    assert [arm.events for arm in by_flops] == [arm.events for arm in by_parameters]
    both, *alone = (_spent(task, arm, "cost") for arm in by_parameters)
    assert alone == pytest.approx([both] * 2, rel=0.002)
    both, *alone = (_spent(task, arm, "flops") for arm in by_flops)
    assert alone == pytest.approx([both] * 2, rel=0.015)  # a batch is cut to whole samples
    both = _spent(task, by_parameters[0], "flops")
    assert [_spent(task, arm, "flops") for arm in placing.kinds_in_equal_time(task)] == pytest.approx(
        [both] * 2, rel=0.002
    )


def test_operators_with_attention_end_with_equal_parameters_at_equal_cost() -> None:
    task = TASKS["warped-digits"]
    wanted = equal.SIZES[task.name].nine_tenths.parameters
    base = equal.uniform(task)
    assert initial(task.architecture, base.start, (0,)).parameters() == wanted
    for arm in equal.with_attention(task):
        if arm.events and "eigenvectors" not in arm.name:  # these look at data, and have the shape of gated ones
            assert _stages(task, arm)[-1].parameters() == pytest.approx(wanted, rel=0.01), arm.name
            assert _spent(task, arm, "cost") == pytest.approx(wanted * base.steps, rel=0.01), arm.name
