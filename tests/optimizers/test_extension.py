import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

from fxgrow.errors import PlanError
from fxgrow.graph.sharing import share
from fxgrow.optimizers import extend_optimizer
from fxgrow.primitives.modules import add_module
from fxgrow.record.record import update_record
from fxgrow.testing import Draws

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: Adam(parameters, lr=0.01, foreach=False),
    "adamw foreach": lambda parameters: AdamW(parameters, lr=0.01, foreach=True),
    "adamw fused": lambda parameters: AdamW(parameters, lr=0.01, fused=True),
    "amsgrad": lambda parameters: Adam(parameters, lr=0.01, amsgrad=True),
}
NEW = ["fc1_pseudo_0.down.weight", "fc1_pseudo_0.down.bias", "fc1_pseudo_0.up.weight"]


def base_model(bias: bool = True) -> fx.GraphModule:
    torch.manual_seed(0)
    layers = {"fc1": nn.Linear(6, 8, bias=bias), "act": nn.GELU(), "fc2": nn.Linear(8, 3)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return fx.symbolic_trace(model)


def grow_at(traced: fx.GraphModule, site: str = "fc1", pseudo_layer: str = "fc1_pseudo_0") -> fx.GraphModule:
    """Add ``up(gelu(down(h)))`` to the output h of a linear site, by hand, with the record that grow writes."""
    grown = share(traced)
    call = next(node for node in grown.graph.nodes if node.target == site)
    width = grown.get_submodule(site).out_features
    add_module(grown, f"{pseudo_layer}.down", nn.Linear(width, 4))
    add_module(grown, f"{pseudo_layer}.up", nn.Linear(4, width, bias=False))
    nn.init.zeros_(grown.get_parameter(f"{pseudo_layer}.up.weight"))
    with grown.graph.inserting_after(call):
        down = grown.graph.call_module(f"{pseudo_layer}.down", (call,))
    with grown.graph.inserting_after(down):
        activation = grown.graph.call_function(nn.functional.gelu, (down,))
    with grown.graph.inserting_after(activation):
        up = grown.graph.call_module(f"{pseudo_layer}.up", (activation,))
    with grown.graph.inserting_after(up):
        added = grown.graph.call_function(torch.add, (call, up))
    call.replace_all_uses_with(added, delete_user_cb=lambda user: user not in (down, added))
    grown.recompile()
    names = tuple(f"{pseudo_layer}.{name}" for name in ("down.weight", "down.bias", "up.weight"))
    update_record(grown, new_parameters=names)
    return grown


def train(model: nn.Module, optimizer: Optimizer, steps: int, scheduler: Any = None) -> list[float]:
    draws, losses = Draws(dtype=torch.float32), []
    inputs, targets = draws.normal(16, 6), draws.normal(16, 3)
    for _ in range(steps):
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.item())
    return losses


def state_of(optimizer: Optimizer, parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [copy.deepcopy(optimizer.state[parameter]) for parameter in parameters]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_old_state_is_bit_identical_and_new_state_is_empty(name: str) -> None:
    traced = base_model()
    old = list(traced.parameters())
    optimizer = OPTIMIZERS[name](old)
    train(traced, optimizer, steps=3)
    before = state_of(optimizer, old)
    grown = grow_at(traced)
    extend_optimizer(optimizer, grown)
    after = state_of(optimizer, old)
    for state, kept in zip(before, after, strict=True):
        assert state.keys() == kept.keys()
        assert all(torch.equal(torch.as_tensor(state[key]), torch.as_tensor(kept[key])) for key in state)
    assert all(grown.get_parameter(path) not in optimizer.state for path in NEW)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_held_once_and_moves(name: str) -> None:
    traced = base_model()
    optimizer = OPTIMIZERS[name](list(traced.parameters()))
    train(traced, optimizer, steps=3)
    grown = grow_at(traced)
    extend_optimizer(optimizer, grown)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in grown.parameters())
    start = {path: parameter.detach().clone() for path, parameter in grown.named_parameters()}
    losses = train(grown, optimizer, steps=20)
    assert losses[-1] < losses[0]  # 90 parameters learn 48 numbers by heart, each optimizer by a fifth at least
    assert all(not torch.equal(start[path], parameter) for path, parameter in grown.named_parameters())


def test_a_new_parameter_counts_its_own_steps() -> None:
    traced = base_model()
    optimizer = AdamW(traced.parameters(), lr=0.01)
    train(traced, optimizer, steps=3)
    grown = grow_at(traced)
    extend_optimizer(optimizer, grown)
    train(grown, optimizer, steps=2)
    assert optimizer.state[grown.get_parameter("fc1.weight")]["step"] == 5
    assert optimizer.state[grown.get_parameter(NEW[0])]["step"] == 2


def test_weights_and_biases_join_the_groups_of_their_site() -> None:
    traced = base_model()
    biases = [parameter for parameter in traced.parameters() if parameter.dim() == 1]
    weights = [parameter for parameter in traced.parameters() if parameter.dim() > 1]
    optimizer = AdamW([{"params": biases, "weight_decay": 0.0}, {"params": weights, "weight_decay": 0.05}])
    grown = grow_at(traced)
    extend_optimizer(optimizer, grown)
    no_decay, decay = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    assert id(grown.get_parameter("fc1_pseudo_0.down.bias")) in no_decay
    assert {id(grown.get_parameter(path)) for path in (NEW[0], NEW[2])} <= decay
    assert len(optimizer.param_groups) == 2


def test_a_vector_joins_the_weight_where_the_site_has_no_bias() -> None:
    traced = base_model(bias=False)
    optimizer = SGD([{"params": traced.fc2.parameters()}, {"params": traced.fc1.parameters()}], lr=0.1)
    grown = grow_at(traced)
    extend_optimizer(optimizer, grown)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 4]


def test_timm_groups_of_layer_decay_are_extended() -> None:
    timm = pytest.importorskip("timm")
    from timm.optim import create_optimizer_v2

    arguments = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", **arguments)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    site, pseudo_layer = "blocks.1.mlp.fc1", "blocks.1.mlp.fc1_pseudo_0"
    names = (f"{pseudo_layer}.down.weight", f"{pseudo_layer}.down.bias")
    grown = _grown_container(model, site, pseudo_layer, names)
    groups, sizes = len(optimizer.param_groups), [len(group["params"]) for group in optimizer.param_groups]
    extend_optimizer(optimizer, grown)
    assert len(optimizer.param_groups) == groups
    for index, group in enumerate(optimizer.param_groups):
        held = {id(parameter) for parameter in group["params"]}
        new = [name for name in names if id(grown.get_parameter(name)) in held]
        assert len(group["params"]) == sizes[index] + len(new)
        for name in new:
            peer = model.get_parameter(f"{site}.{name.rpartition('.')[2]}")
            assert id(peer) in held, "a new parameter decays as the parameter of its site does"


def _grown_container(model: nn.Module, site: str, pseudo_layer: str, names: tuple[str, ...]) -> fx.GraphModule:
    """Put the site of a model that plain fx cannot trace, and a new module beside it, into a graph of their own."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_module(f"{pseudo_layer}.down", (graph.call_module(site, (x,)),)))
    add_module(model, f"{pseudo_layer}.down", nn.Linear(64, 64))
    grown = fx.GraphModule(model, graph)
    update_record(grown, new_parameters=names)
    return grown


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "lambda": lambda optimizer: LambdaLR(optimizer, lambda step: 0.9**step),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, T_max=8),
    "one cycle": lambda optimizer: OneCycleLR(optimizer, max_lr=0.1, total_steps=9),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_goes_on_as_if_nothing_had_grown(name: str) -> None:
    rates: dict[bool, list[float]] = {}
    for grows in (False, True):
        traced = base_model()
        optimizer = AdamW(traced.parameters(), lr=0.1)
        scheduler = SCHEDULERS[name](optimizer)
        train(traced, optimizer, steps=3, scheduler=scheduler)
        grown = grow_at(traced) if grows else traced
        if grows:
            extend_optimizer(optimizer, grown)
        rates[grows] = []
        for _ in range(5):
            train(grown, optimizer, steps=1, scheduler=scheduler)
            rates[grows].append(optimizer.param_groups[0]["lr"])
    assert rates[True] == rates[False]


def test_the_state_goes_round_after_growth() -> None:
    traced = base_model()
    optimizer = AdamW(traced.parameters(), lr=0.01)
    train(traced, optimizer, steps=2)
    grown = grow_at(traced)
    extend_optimizer(optimizer, grown)
    train(grown, optimizer, steps=2)
    saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(grown.state_dict())
    first = train(grown, optimizer, steps=3)
    optimizer.load_state_dict(saved)
    grown.load_state_dict(weights)
    assert train(grown, optimizer, steps=3) == first


def test_names_are_extended_with_the_parameters() -> None:
    traced = base_model()
    optimizer = AdamW(traced.named_parameters(), lr=0.01)
    grown = grow_at(traced)
    extend_optimizer(optimizer, grown)
    group = optimizer.param_groups[0]
    assert group["param_names"][-3:] == NEW
    held = dict(zip(group["param_names"], group["params"], strict=True))
    assert all(held[name] is parameter for name, parameter in grown.named_parameters())


def test_growth_nests_in_an_earlier_pseudo_layer() -> None:
    traced = base_model()
    optimizer = AdamW(traced.parameters(), lr=0.01)
    grown = grow_at(traced)
    extend_optimizer(optimizer, grown)
    deeper = grow_at(grown, "fc1_pseudo_0.down", "fc1_pseudo_0.down_pseudo_0")
    extend_optimizer(optimizer, deeper)
    assert len(optimizer.param_groups[0]["params"]) == 10
    losses = train(deeper, optimizer, steps=10)
    assert losses[-1] < losses[0]


def test_extending_twice_adds_nothing() -> None:
    traced = base_model()
    optimizer = SGD(traced.parameters(), lr=0.1)
    grown = grow_at(traced)
    extend_optimizer(optimizer, grown)
    extend_optimizer(optimizer, grown)
    assert len(optimizer.param_groups[0]["params"]) == 7


def test_an_optimizer_without_the_site_is_refused_and_unchanged() -> None:
    traced = base_model()
    optimizer = SGD(traced.fc2.parameters(), lr=0.1)
    with pytest.raises(PlanError, match=r"fc1\.weight: the optimizer does not hold this parameter"):
        extend_optimizer(optimizer, grow_at(traced))
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


def test_what_another_optimizer_trains_is_left_to_it() -> None:
    traced = base_model()
    first, second = (SGD(traced.get_submodule(site).parameters(), lr=0.1) for site in ("fc1", "fc2"))
    grown = grow_at(grow_at(traced), "fc2", "fc2_pseudo_0")
    others = tuple(name.replace("fc1", "fc2") for name in NEW)
    update_record(grown, new_parameters=(*NEW, *others))
    assert extend_optimizer(first, grown) == others
    assert extend_optimizer(second, grown) == tuple(NEW)
    held = [id(p) for one in (first, second) for p in one.param_groups[0]["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in grown.parameters())


def test_a_parameter_that_hangs_on_no_site_is_refused() -> None:
    traced = fx.symbolic_trace(nn.Sequential(nn.LayerNorm(4), nn.GELU()))
    update_record(traced, new_parameters=("0.weight",))
    with pytest.raises(PlanError, match=r"0\.weight: nothing tells which group this new parameter belongs to"):
        extend_optimizer(SGD([traced.get_parameter("0.bias")], lr=0.1), traced)


def test_what_is_no_optimizer_is_refused() -> None:
    with pytest.raises(PlanError, match=r"list: it is no optimizer; give a torch.optim.Optimizer"):
        extend_optimizer([[1]], grow_at(base_model()))  # type: ignore[list-item]


def test_a_frozen_new_part_follows_the_ungrown_run() -> None:
    """Old parameters take the same steps, bit for bit, where the new ones stay at zero."""
    runs: list[Tensor] = []
    for grows in (False, True):
        traced = base_model()
        optimizer = AdamW(traced.parameters(), lr=0.01)
        train(traced, optimizer, steps=3)
        model = grow_at(traced) if grows else traced
        if grows:
            extend_optimizer(optimizer, model)
            for name in NEW:
                model.get_parameter(name).requires_grad_(False)
        train(model, optimizer, steps=5)
        runs.append(traced.fc1.weight.detach().clone())
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=1e-7)
