"""Scores over ranks: what each rank measures on its share of the probe is what one process measures on all of it."""

import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.curvature import Scores, analyze, analyze_units, score_names
from fxgrow.curvature.step_recorder import StepRecorder
from fxgrow.errors import RankError
from fxgrow.testing import Draws
from fxgrow.tracing import trace
from tests.ranks.conftest import OnRanks

SIZES = (150, 60, 90, 40)
#: the batches of each rank: halves, and shares of unequal length
SHARES = {"halves": (slice(0, 2), slice(2, 4)), "unequal": (slice(0, 3), slice(3, 4))}
#: with the default settings an eigenvector may be found to less than rounding; here the result is exact
EXACT = {"iterations": 16, "settled": None}


class Network(nn.Module):
    """Convolution, BatchNorm, dropout, a site that is called twice, and a dead neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3)
        self.twice, self.drop = nn.Linear(3, 3), nn.Dropout(0.2)
        self.relu, self.head = nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm(self.conv(x))).mean((2, 3))
        x = self.drop(self.twice(F.gelu(self.twice(x))))
        return self.head(F.relu(self.relu(x)))


def model() -> fx.GraphModule:
    made, draws = Network().double(), Draws(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.7 * draws.normal(*parameter.shape))
        made.relu.bias[0] = -1e3
    return trace(made, batches()[0][0])


def batches() -> list[tuple[Tensor, Tensor]]:
    draws = Draws(2)
    return [(draws.normal(size, 1, 3, 3), torch.arange(size) % 3) for size in SIZES]


class Gated(nn.Module):
    """Gated neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def gated() -> fx.GraphModule:
    made, draws = Gated().double(), Draws(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(draws.normal(*parameter.shape))
    return trace(made, draws.normal(3, 4))


def vectors() -> list[tuple[Tensor, Tensor]]:
    return [(x.flatten(1)[:, :4], target) for x, target in batches()]


def recorded(part: slice, **options: Any) -> Scores:
    recorder = StepRecorder(model().eval())
    for x, target in batches()[part]:
        F.cross_entropy(recorder(x), target).backward()
    return recorder.scores(**EXACT, **options)


def all_scores(part: slice, **options: Any) -> dict[str, Scores]:
    found = {}
    for name in score_names():
        scored = model().eval() if name == "splitting" else model()
        found[name] = analyze(scored, F.cross_entropy, batches()[part], score=name, seed=3, **EXACT, **options)
    found["units"] = analyze_units(gated(), F.cross_entropy, vectors()[part], iterations=16, **options)
    return found | {"steps": recorded(part, **options)}


def plain(scores: Scores) -> dict[str, Any]:
    fields = ("values", "held_out", "stderr", "reached", "reliability")
    return {
        "samples": scores.samples,
        "refusals": dict(scores.refusals),
        "sites": {path: {field: getattr(site, field) for field in fields} for path, site in scores.items()},
    }


def scores_of_shares(rank: int) -> dict[str, dict[str, Any]]:
    return {
        share: {name: plain(scores) for name, scores in all_scores(parts[rank]).items()}
        for share, parts in SHARES.items()
    }


def compare(found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    assert (found["samples"], found["refusals"]) == (expected["samples"], expected["refusals"])
    assert list(found["sites"]) == list(expected["sites"])
    for path, values in expected["sites"].items():
        for field, value in values.items():
            message = f"{what} {path} {field}"
            torch.testing.assert_close(found["sites"][path][field], value, rtol=1e-10, atol=1e-12, msg=message)


def refusals(rank: int) -> dict[str, str]:
    """Measure models that differ, and then, in a group that does not wait for long, on the first rank alone."""
    made = trace(nn.Sequential(nn.Linear(4, 3 + rank), nn.GELU(), nn.Linear(3 + rank, 3)), torch.zeros(2, 4))
    data = [(Draws(rank, torch.float32).normal(200, 4), torch.arange(200) % 3)]
    with pytest.raises(RankError) as differs:
        analyze(made, F.cross_entropy, data)
    impatient = dist.new_group(timeout=timedelta(seconds=1))
    if rank == 1:
        time.sleep(3)
        return {"differs": str(differs.value)}
    with pytest.raises(RankError) as waited:
        analyze(made, F.cross_entropy, data, group=impatient)
    return {"differs": str(differs.value), "waited": str(waited.value)}


def scores_and_refusals(rank: int) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    return scores_of_shares(rank), refusals(rank)


def test_every_score_over_two_ranks_is_the_one_of_all_data_and_ranks_that_differ_or_do_not_come_are_errors(
    on_ranks: OnRanks,
) -> None:
    of_all = {name: plain(scores) for name, scores in all_scores(slice(None), group=False).items()}
    ranks = on_ranks(scores_and_refusals)
    for of_rank, refused in ranks:
        for share in SHARES:
            for name, expected in of_all.items():
                compare(of_rank[share][name], expected, f"{share} {name}")
        assert "make model, options and seed the same on all of them" in refused["differs"]
    assert not of_all["eigen"]["sites"]["relu"]["reached"][0]
    assert of_all["eigen"]["samples"] == sum(SIZES)
    message = ranks[0][1]["waited"]
    assert "rank 0 of 2: another rank is gone or did not come" in message
    assert "all of them have to take part" in message


def test_one_process_measures_alone_where_it_is_told_to() -> None:
    assert not dist.is_initialized()
    assert analyze(model(), F.cross_entropy, batches(), iterations=2, group=False).samples == sum(SIZES)
