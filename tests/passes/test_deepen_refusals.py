"""What cannot become two steps is refused with the reason, and nothing has changed."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PassError
from tests.passes.deep_models import LinearBlock, Squeezed, make


class Twice(nn.Module):
    """Two blocks that are one."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Squeezed()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


class Plain(nn.Module):
    """No residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).tanh()


@pytest.mark.parametrize(
    ("model", "block", "how", "message"),
    [
        (nn.Sequential(Squeezed(), Squeezed()), "0", "half", "0: a gate that is computed from its last linear map"),
        (nn.Sequential(Plain(), Plain()), "0", "half", "0: it is not residual: tanh in 0 is not the sum"),
        (nn.Sequential(Plain(), Plain()), None, "half", "the model: it has no residual blocks of one kind"),
        (Twice(), "block", "half", "block: "),
    ],
)
def test_what_cannot_be_halved_is_refused_with_the_reason(
    model: nn.Module, block: str | None, how: str, message: str
) -> None:
    traced = fxgrow.trace(model, torch.zeros(2, 4))
    with pytest.raises(PassError, match=message):
        fxgrow.deepen(traced, block, how=how)  # type: ignore[arg-type]


def test_a_silent_copy_behind_a_norm_is_refused_and_inserting_a_block_gates_it() -> None:
    _, traced, _ = make(norm="behind")
    with pytest.raises(PassError, match=r"blocks.1: a silent copy of it would normalise once more, behind its sums"):
        fxgrow.deepen(traced, "blocks.1", how="zero")
    assert "blocks.2_gate" in fxgrow.new_parameters(fxgrow.insert_block(traced, after="blocks.1"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": []}, r"fit=: it holds no batch"),
        ({"fit": 3}, r"fit: it is an int; give batches, each a pair"),
        ({"fit": [torch.ones(2, 3)]}, r"batch 0 of fit=: it is not a pair \(inputs, target\)"),
        ({"fit": [(torch.ones(2, 4), None)]}, r"fit=: the model does not run on its inputs"),
        ({"fit": [(torch.full((2, 3), torch.nan), None)]}, r"0: what enters its last maps, .* is not finite"),
        ({"fit": [(torch.ones(2, 3), None)], "how": "zero"}, r"fit: a silent copy has nothing to be fitted to"),
        ({"loss_fn": F.mse_loss}, r"loss_fn: it is measured on the pairs of fit=, and none are given"),
        ({"how": "full"}, r"deepen: how='full' is none of \"half\" \| \"zero\"; choose one of them"),
        ({"blocks": []}, r"blocks=\[\]: it names no blocks; give module paths"),
        ({"blocks": 0}, r"blocks: it is an int; give module paths"),
    ],
)
def test_what_does_not_fit_is_refused_in_the_users_words(options: dict[str, Any], message: str) -> None:
    traced = fxgrow.trace(nn.Sequential(LinearBlock(), LinearBlock()), torch.ones(2, 3))
    before = {name: value.clone() for name, value in traced.state_dict().items()}
    with pytest.raises(PassError, match=message):
        fxgrow.deepen(traced, **{"blocks": "0", **options})
    assert all(torch.equal(value, before[name]) for name, value in traced.state_dict().items())


def test_a_block_that_runs_twice_is_refused_by_the_name_of_what_is_shared() -> None:
    block = LinearBlock()
    traced = fxgrow.trace(nn.Sequential(block, LinearBlock(), block), torch.ones(2, 3))
    with pytest.raises(PassError, match=r"0: 0\.up\.weight is read by several operations; name another block"):
        fxgrow.deepen(traced, "0")
