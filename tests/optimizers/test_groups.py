"""Which group takes a new parameter, and where in it."""

from typing import Any

import pytest
import torch
import torch.fx as fx
from torch import Tensor, nn, optim

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.graph.sharing import share
from fxgrow.optimizers import carry_over
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers
from fxgrow.record.lineage import Lineage, scaled


def model() -> fx.GraphModule:
    layers = [nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 2)]
    return fxgrow.trace(nn.Sequential(*layers), torch.ones(2, 4))


def names_in(group: dict[str, Any], graph_module: fx.GraphModule) -> list[str]:
    names = {id(parameter): name for name, parameter in graph_module.named_parameters()}
    return [names.get(id(parameter), "?") for parameter in group["params"]]


def step(optimizer: optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


EDIT = InsertPseudoLayers({"0": (1,)}, "serial")
NEW = ["0_pseudo_0.fc1.weight", "0_pseudo_0.fc1.bias", "0_pseudo_0.fc2.weight"]


@pytest.mark.parametrize("others", [(2, 0), (0, 2), (1, 1)])
def test_parameters_of_other_models_stay_before_or_behind(others: tuple[int, int]) -> None:
    before, after = ([nn.Parameter(torch.zeros(2)) for _ in range(count)] for count in others)
    traced = model()
    optimizer = optim.AdamW([*before, *traced.parameters(), *after])
    grown = EDIT(traced, optimizer).graph_module
    expected = [name for name, _ in grown.named_parameters()]
    assert names_in(optimizer.param_groups[0], grown) == ["?"] * others[0] + expected + ["?"] * others[1]


def test_a_pass_that_adds_nothing_leaves_even_an_odd_order() -> None:
    traced = model()
    optimizer = optim.AdamW(list(traced.parameters())[::-1])
    held = list(optimizer.param_groups[0]["params"])
    fxgrow.passes.parse("eliminate-dead-code,functionalize-inplace")(traced, optimizer)
    assert all(one is other for one, other in zip(held, optimizer.param_groups[0]["params"], strict=True))


def test_a_part_of_a_larger_model_grows_in_the_optimizer_of_the_whole() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.backbone, self.head = nn.Linear(4, 4), model(), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.backbone(self.stem(x)))

    whole = Whole()
    optimizer = optim.AdamW(whole.parameters())
    whole.backbone = EDIT(whole.backbone, optimizer).graph_module
    held = optimizer.param_groups[0]["params"]
    assert [id(parameter) for parameter in held] == [id(parameter) for parameter in whole.parameters()]


def test_moments_of_a_parameter_that_stays_start_anew_or_change_where_its_lineage_says_so() -> None:
    traced = model()
    optimizer = optim.AdamW(traced.parameters())
    step(optimizer)
    copied = share(traced)
    first, second, third = (traced.get_parameter(f"{layer}.weight") for layer in (0, 2, 4))
    old = {key: value.clone() for key, value in optimizer.state[second].items()}
    kept = optimizer.state[third]
    lineages = {"0.weight": Lineage(("0.weight",)), "2.weight": Lineage(("2.weight",), scaled(0.5))}
    carry_over(optimizer, traced, copied, lineages)
    assert first not in optimizer.state
    assert torch.equal(optimizer.state[second]["exp_avg"], old["exp_avg"] / 2)
    assert torch.equal(optimizer.state[second]["exp_avg_sq"], old["exp_avg_sq"] / 4)
    assert optimizer.state[second]["step"] == old["step"]
    assert optimizer.state[third] is kept
    step(optimizer)
    assert optimizer.state[first]["step"] == 1


def test_two_parameters_may_exchange_their_moments() -> None:
    traced = model()
    optimizer = optim.SGD(traced.parameters(), lr=0.1, momentum=0.9)
    step(optimizer)
    bias, other = traced.get_parameter("0.bias"), traced.get_parameter("2.bias")
    optimizer.state[bias]["momentum_buffer"] = torch.full((6,), 5.0)
    lineages = {"0.bias": Lineage(("2.bias",), scaled(1.0)), "2.bias": Lineage(("0.bias",), scaled(1.0))}
    carry_over(optimizer, traced, share(traced), lineages)
    assert optimizer.state[bias]["momentum_buffer"].eq(1).all()
    assert optimizer.state[other]["momentum_buffer"].eq(5).all()


@pytest.mark.parametrize("kind", [optim.Adagrad, lambda p: optim.SGD(p, 0.1, momentum=0.9, fused=True)])
def test_state_that_step_does_not_make_is_there_after_a_new_start(kind: Any) -> None:
    traced = model()
    optimizer = kind(traced.parameters())
    step(optimizer)
    carry_over(optimizer, traced, share(traced), {"0.weight": Lineage(("0.weight",))})
    state = optimizer.state[traced.get_parameter("0.weight")]
    assert state
    assert not any(torch.as_tensor(value).any() for value in state.values())
    step(optimizer)


def test_new_parameters_that_need_no_gradient_may_stay_outside() -> None:
    traced = model()
    for parameter in traced.get_submodule("0").parameters():
        parameter.requires_grad_(False)
    trained = [parameter for parameter in traced.parameters() if parameter.requires_grad]
    optimizer = optim.AdamW(trained)
    deeper = fxgrow.insert_block(traced, after="2", optimizer=optimizer)
    assert "5.weight" in names_in(optimizer.param_groups[0], deeper)
    with pytest.raises(PlanError, match=r"0\.weight: the optimizer does not hold this parameter"):
        EDIT(traced, optimizer)


def test_a_vector_of_a_layer_wise_group_stays_with_its_layer() -> None:
    traced = fxgrow.trace(nn.Sequential(nn.Linear(4, 4, bias=False), nn.GELU(), nn.Linear(4, 2)), torch.ones(2, 4))
    optimizer = optim.SGD([{"params": traced.get_submodule(path).parameters()} for path in ("2", "0")], lr=0.1)
    grown = EDIT(traced, optimizer).graph_module
    assert names_in(optimizer.param_groups[1], grown) == ["0.weight", *NEW]


def test_muon_alone_refuses_vectors() -> None:
    traced = fxgrow.trace(
        nn.Sequential(nn.Linear(4, 4, bias=False), nn.GELU(), nn.Linear(4, 2, bias=False)), torch.ones(2, 4)
    )
    optimizer = optim.Muon(traced.parameters())
    with pytest.raises(PlanError, match=r"the optimizer does not hold .* give all optimizers of the model"):
        EDIT(traced, optimizer)
    assert len(optimizer.param_groups[0]["params"]) == 2


def test_an_ancestor_that_is_not_there_is_refused() -> None:
    traced = model()
    optimizer = optim.AdamW(traced.parameters())
    with pytest.raises(PlanError, match=r"nowhere: 0\.weight cannot come from it: the model has no such parameter"):
        carry_over(optimizer, traced, share(traced), {"0.weight": Lineage(("nowhere",))})
