"""What the benchmark of growing says of where the time goes, on functions whose time is known."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("timm")

from growing_cost.deit_s import EPOCHS, EVENTS, IMAGES, SAMPLES, schedule_share
from growing_cost.event import EventCost
from growing_cost.stopwatch import BY_SAMPLE, PARTS, Stopwatch, parts_timed
from measuring.timing import processor_time

import fxgrow


def compute(seconds: float) -> None:
    started = processor_time()
    while processor_time() - started < seconds:
        pass


def test_a_part_counts_without_the_parts_inside_it() -> None:
    stopwatch = Stopwatch()
    with stopwatch.part("outer"):
        compute(0.02)
        with stopwatch.part("inner"):
            compute(0.1)
    assert stopwatch.seconds["inner"] >= 0.1
    assert 0.02 <= stopwatch.seconds["outer"] < 0.1


@pytest.mark.filterwarnings("ignore:scores from fewer than")
def test_all_parts_of_a_real_event_are_found_and_the_functions_come_back() -> None:
    before = [getattr(owner, attribute) for _, owner, attribute in PARTS]
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.GELU(), torch.nn.Linear(16, 3))
    traced = fxgrow.trace(model, torch.zeros(2, 4))
    optimizer = torch.optim.AdamW(traced.parameters())
    grower = fxgrow.Grower(traced, F.cross_entropy, optimizer, at=(1,), budget=0.5, compile=False)
    data = [(torch.linspace(-1, 1, 64).reshape(16, 4), torch.arange(16) % 3)]
    started = processor_time()
    with parts_timed() as stopwatch:
        grower.grow(data)
    whole = processor_time() - started
    assert set(stopwatch.seconds) == {name for name, *_ in PARTS}
    assert sum(stopwatch.seconds.values()) <= whole
    assert [getattr(owner, attribute) for _, owner, attribute in PARTS] == before


def test_the_schedule_scales_what_reads_samples_and_nothing_else() -> None:
    name, fixed = BY_SAMPLE[-1], "plan"
    assert name in {part for part, *_ in PARTS}
    steps = EPOCHS * IMAGES / 16
    assert schedule_share(EventCost({name: 2.0}, 0.0), 16, 64) == pytest.approx(EVENTS * 2 * SAMPLES / 64 / steps)
    assert schedule_share(EventCost({fixed: 2.0}, 1.0), 16, 64) == pytest.approx(EVENTS * 3 / steps)
