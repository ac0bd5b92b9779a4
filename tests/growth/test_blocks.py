"""Ranks of blocks: sums over what is inside them, the strongest first, and no others."""

from collections.abc import Callable

import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.curvature.scores import Scores, SiteScores
from fxgrow.errors import PassError, PlanError
from fxgrow.record.digest import digest


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(F.gelu(self.fc1(x)))


def _traced(blocks: int = 3) -> fx.GraphModule:
    torch.manual_seed(0)
    stack = nn.Sequential(*(Block() for _ in range(blocks)), nn.Linear(4, 3))
    return fxgrow.trace(stack, torch.zeros(3, 4))


def _scores(graph_module: fx.GraphModule, held_out: dict[str, list[float]], matrices: dict[str, str]) -> Scores:
    sites = {
        path: SiteScores(torch.zeros(len(values)), torch.tensor(values).double(), None, matrices.get(path, ""))
        for path, values in held_out.items()
    }
    return Scores(sites, "eigen", digest(graph_module), samples=8)


def test_a_block_has_the_sum_of_what_is_negative_in_it() -> None:
    traced = _traced()
    held_out = {"0.fc1": [-1.0, 5.0, 0, 0, 0, 0], "1.fc1": [-2.0, -2.0, 0, 0, 0, 0], "2.fc1": [-0.5] * 6}
    ranked = fxgrow.rank_blocks(traced, _scores(traced, held_out, {}))
    assert ranked == {"1": 4.0, "2": 3.0, "0": 1.0}
    assert list(ranked) == ["1", "2", "0"]


def test_hidden_units_alone_count_where_there_are_any() -> None:
    traced = _traced(2)
    held_out = {"0.fc1": [-1.0] * 6, "0.fc2": [-9.0] * 4, "1.fc1": [-2.0] * 6, "1.fc2": [0.0] * 4}
    matrices = {path: "splitting" if path.endswith("fc1") else "branch" for path in held_out}
    assert list(fxgrow.rank_blocks(traced, _scores(traced, held_out, matrices))) == ["1", "0"]
    assert list(fxgrow.rank_blocks(traced, _scores(traced, held_out, dict.fromkeys(held_out, "branch")))) == ["0", "1"]


def test_where_no_gradient_arrives_nothing_is_added() -> None:
    traced = _traced(2)
    scores = _scores(traced, {"0.fc1": [-1.0] * 6, "1.fc1": [-2.0] * 6}, {})
    reached = torch.tensor([True, *[False] * 5])
    dead = SiteScores(scores["1.fc1"].values, scores["1.fc1"].held_out, None, reached=reached)
    ranked = fxgrow.rank_blocks(traced, Scores({**scores.sites, "1.fc1": dead}, "eigen", scores.digest, 8))
    assert ranked == {"0": 6.0, "1": 2.0}


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (
            lambda t: fxgrow.rank_blocks(t, _scores(t, {"3": [0.0] * 3}, {})),
            PlanError,
            "none of them lies in a residual block",
        ),
        (lambda t: fxgrow.rank_blocks(t, {"0.fc1": 1.0}), PlanError, "scores"),
        (lambda t: fxgrow.rank_blocks(_traced(2), _scores(t, {"0.fc1": [0.0] * 6}, {})), PlanError, "on another graph"),
        (
            lambda t: fxgrow.rank_blocks(_traced(1), _scores(_traced(1), {"0.fc1": [0.0] * 6}, {})),
            PassError,
            "no residual blocks",
        ),
    ],
)
def test_what_cannot_be_ranked_is_refused(
    use: Callable[[fx.GraphModule], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        use(_traced())
