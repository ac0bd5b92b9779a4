"""Residual blocks become two half-steps, or a step and a silent one."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PassError, VerificationError
from fxgrow.passes import parse
from fxgrow.passes.deepen import Deepen
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of
from fxgrow.testing import check_pass, sample_models

Branch = Callable[[Tensor], Tensor]


class Block(nn.Module):
    """Attention and an MLP, each a branch, with what may end a branch."""

    def __init__(self, end: str = "linear", norm: str = "before") -> None:
        super().__init__()
        self.norm1, self.norm2, self.end1, self.end2 = (nn.LayerNorm(8) for _ in range(4))
        self.qkv, self.proj, self.fc1, self.fc2 = (nn.Linear(*s) for s in ((8, 24), (8, 8), (8, 12), (12, 8)))
        self.scale1, self.scale2 = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))
        self.end, self.norm = end, norm

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def mlp(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))

    def finish(self, x: Tensor, scale: Tensor, norm: nn.Module) -> Tensor:
        return {"linear": lambda: x, "scale": lambda: scale * x, "norm": lambda: norm(x)}[self.end]()

    def branches(self) -> list[Branch]:
        behind = [lambda x: self.attention(x), lambda x: self.mlp(x)]
        before = [lambda x: self.attention(self.norm1(x)), lambda x: self.mlp(self.norm2(x))]
        first, second = behind if self.norm == "behind" else before
        return [
            lambda x: self.finish(first(x), self.scale1, self.end1),
            lambda x: self.finish(second(x), self.scale2, self.end2),
        ]

    def steps(self, x: Tensor, size: float) -> Tensor:
        norms = [self.norm1, self.norm2] if self.norm == "behind" else [nn.Identity(), nn.Identity()]
        for branch, norm in zip(self.branches(), norms, strict=True):
            x = norm(x + size * branch(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(x, 1.0) if self.norm == "never" else self._written_out(x)

    def _written_out(self, x: Tensor) -> Tensor:
        first, second = self.branches()
        x = x + first(x)
        x = self.norm1(x) if self.norm == "behind" else x
        x = x + second(x)
        return self.norm2(x) if self.norm == "behind" else x


class Model(nn.Module):
    """Two such blocks behind a norm."""

    def __init__(self, end: str = "linear", norm: str = "before") -> None:
        super().__init__()
        self.start, self.head = nn.LayerNorm(8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList([Block(end, norm) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def make(**options: str) -> tuple[Model, fx.GraphModule, Tensor]:
    return copy.deepcopy(_made(**options))


@functools.cache
def _made(**options: str) -> tuple[Model, fx.GraphModule, Tensor]:
    draw = np.random.default_rng(0)
    model = Model(**options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(0.3 * draw.standard_normal(parameter.shape)) + (parameter.dim() == 1))
    x = torch.from_numpy(draw.standard_normal((3, 5, 8)))
    return model, fxgrow.trace(model, x), x


CASES = [{"end": end, "norm": "before"} for end in ("linear", "scale", "norm")] + [{"end": "linear", "norm": "behind"}]


@pytest.mark.parametrize("options", CASES)
def test_a_block_becomes_two_half_steps_in_each_of_its_branches(options: dict[str, str]) -> None:
    model, traced, x = make(**options)
    before = traced(x)
    deeper = check_pass(Deepen(("blocks.0",)), traced).graph_module
    h = model.start(x)
    for _ in range(2):
        h = model.blocks[0].steps(h, 0.5)
    expected = model.head(model.blocks[1](h).mean(1))
    torch.testing.assert_close(deeper(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(traced(x), before)


@pytest.mark.parametrize("options", CASES[:3])
def test_a_silent_copy_keeps_the_function_and_has_a_gradient_at_once(options: dict[str, str]) -> None:
    _, traced, x = make(**options)
    deeper = check_pass(Deepen(("blocks.0", "blocks.1"), "zero"), traced).graph_module
    assert fxgrow.verify(traced, deeper, x).largest_absolute < 1e-10
    assert {name.split(".")[1] for name in fxgrow.new_parameters(deeper)} == {"2", "3"}
    deeper(x).square().sum().backward()
    ends = {"linear": "fc2.weight", "scale": "scale2", "norm": "end2.weight"}
    assert deeper.get_parameter(f"blocks.2.{ends[options['end']]}").grad.abs().sum() > 0


def test_half_says_that_it_changes_the_function_and_verify_by_how_much() -> None:
    _, traced, _ = make()
    assert not Deepen(("blocks.0",)).preserves_function
    assert Deepen(("blocks.0",), "zero").preserves_function
    with pytest.raises(VerificationError, match="it differs by"):
        fxgrow.verify(traced, fxgrow.deepen(traced, "blocks.0"))


def test_both_halves_begin_with_fresh_moments_and_others_keep_theirs() -> None:
    _, traced, x = make()
    plain, decayed = ([p for p in traced.parameters() if (p.dim() > 1) is matrix] for matrix in (False, True))
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": plain, "weight_decay": 0.0}])
    traced(x).square().sum().backward()
    optimizer.step()
    deeper = fxgrow.deepen(traced, "blocks.0", optimizer=optimizer)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    used = {id(p) for name, p in deeper.named_parameters() if "scale" not in name and ".end" not in name}
    assert used <= {id(parameter) for parameter in held}
    assert len({id(parameter) for parameter in held}) == len(held)
    assert all((p.dim() > 1) is (index == 0) for index, g in enumerate(optimizer.param_groups) for p in g["params"])
    with_state = {name for name, parameter in deeper.named_parameters() if optimizer.state.get(parameter)}
    assert not any("blocks.0." in name or "blocks.2." in name for name in with_state)
    assert {"head.weight", "blocks.1.fc1.weight", "start.weight"} <= with_state


def test_without_names_all_blocks_of_a_kind_become_two() -> None:
    _, traced, x = make()
    deeper = fxgrow.deepen(traced)
    assert record_of(deeper).edits == ('deepen{blocks=["blocks.0","blocks.1"] how="half"}',)
    assert [growth.path for growth in record_of(deeper).history[0].growths] == ["blocks.2", "blocks.3"]
    assert digest(parse(record_of(deeper).edits[0])(traced).graph_module) == digest(deeper)
    assert deeper(x).shape == traced(x).shape


def test_a_half_step_can_be_halved_again() -> None:
    model, traced, x = make()
    twice = fxgrow.deepen(fxgrow.deepen(traced, "blocks.0"), ("blocks.0", "blocks.2"))
    h = model.start(x)
    for _ in range(4):
        h = model.blocks[0].steps(h, 0.25)
    expected = model.head(model.blocks[1](h).mean(1))
    torch.testing.assert_close(twice(x), expected, rtol=1e-12, atol=1e-12)


def test_a_silent_copy_can_be_undone_and_a_half_step_cannot() -> None:
    _, traced, _ = make()
    assert digest(fxgrow.undo(fxgrow.deepen(traced, "blocks.0", how="zero"))) == digest(traced)
    with pytest.raises(PassError, match="it changed what was there, and cannot be undone"):
        fxgrow.undo(fxgrow.deepen(traced, "blocks.0"))


def test_statistics_of_batch_norm_are_copied_and_its_scale_is_halved() -> None:
    model, inputs = sample_models()["resnet"].make(dtype=torch.float64)
    traced = fxgrow.trace(model, inputs)
    traced(*inputs)
    deeper = check_pass(Deepen(("blocks.0",)), traced).graph_module
    norm, halved = traced.get_submodule("blocks.0.bn2"), deeper.get_submodule("blocks.0.bn2")
    copied = deeper.get_submodule("blocks.2.bn2")
    assert torch.equal(halved.weight, norm.weight / 2)
    assert torch.equal(copied.weight, norm.weight / 2)
    assert torch.equal(copied.running_mean, norm.running_mean)
    assert copied.running_mean is not norm.running_mean


class Squeezed(nn.Module):
    """A branch that is gated by what its last linear map made."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.gate = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return x + h * self.gate(h).sigmoid()


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


def test_a_gated_branch_has_a_silent_copy() -> None:
    traced = fxgrow.trace(nn.Sequential(Squeezed(), Squeezed()).double(), torch.zeros(2, 4, dtype=torch.float64))
    check_pass(Deepen(("0",), "zero"), traced)


def batches(x: Tensor) -> list[tuple[Tensor, None]]:
    return [(part, None) for part in (x, x.flip(0) * 0.7, x.roll(1, 1) + 0.1)]


class LinearBlock(nn.Module):
    """A branch of two linear maps, which half-steps can follow exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x))


def test_copies_are_fitted_so_that_the_pair_computes_what_the_block_did() -> None:
    model = nn.Sequential(LinearBlock(), LinearBlock()).double()
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(0.4 * draw.standard_normal(parameter.shape)))
    x = torch.from_numpy(draw.standard_normal((64, 3)))
    traced = fxgrow.trace(model, x)
    deeper = fxgrow.deepen(traced, ["0", "1"], fit=batches(x))
    errors = record_of(deeper).history[0].context["fit"]
    assert all(after < 1e-3 * before for before, after in errors.values())
    halved = fxgrow.deepen(traced, ["0", "1"])
    expected = traced(x)
    assert (deeper(x) - expected).norm() < 0.05 * (halved(x) - expected).norm()


def test_a_fit_of_attention_and_mlp_brings_the_pair_nearer_and_leaves_everything_else() -> None:
    _, traced, x = make()
    known = {name: value.clone() for name, value in traced.state_dict().items()}
    deeper = fxgrow.deepen(traced, "blocks.1", fit=batches(x))
    (before, after) = record_of(deeper).history[0].context["fit"]["blocks.1"]
    assert 0 < after < 0.5 * before
    assert all(torch.equal(value, known[name]) for name, value in traced.state_dict().items())
    plain = fxgrow.deepen(traced, "blocks.1")
    changed = {name for name, value in deeper.named_parameters() if not torch.equal(value, plain.get_parameter(name))}
    assert changed == {f"blocks.2.{name}" for name in ("proj.weight", "proj.bias", "fc2.weight", "fc2.bias")}


def test_the_history_says_the_loss_before_of_half_steps_and_of_fitted_ones() -> None:
    _, traced, x = make()
    pairs = [(part, part.mean((1, 2)).gt(0).long()) for part, _ in batches(x)]

    def loss_fn(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(1), target)

    deeper = fxgrow.deepen(traced, "blocks.1", fit=iter(pairs), loss_fn=loss_fn)
    halved = fxgrow.deepen(traced, "blocks.1")
    with torch.no_grad():
        expected = [
            sum(float(loss_fn(module.eval()(part), target)) for part, target in pairs) / len(pairs)
            for module in (traced, halved, deeper)
        ]
    told = record_of(deeper).history[0].context["loss"]
    assert told == pytest.approx(expected, rel=1e-12)
    assert abs(told[2] - told[0]) < 0.5 * abs(told[1] - told[0]), "the fit takes half of the jump away"


@pytest.mark.parametrize("options", CASES[1:])
def test_a_branch_that_ends_in_more_than_a_matrix_product_is_not_fitted(options: dict[str, str]) -> None:
    _, traced, x = make(**options)
    with pytest.raises(PassError, match=r"blocks.0: a residual branch is more than a matrix product in front of"):
        fxgrow.deepen(traced, "blocks.0", fit=batches(x))


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
