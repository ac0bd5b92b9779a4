"""A run that is saved and loaded goes on bit for bit, with plain PyTorch, whatever grew in it."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.fx as fx
from torch import Tensor, nn, optim
from torch.optim import Optimizer

import fxgrow
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers

Make = Callable[[Any], Optimizer]

MAKERS: dict[str, Make] = {
    "adadelta": lambda groups: optim.Adadelta(groups, lr=0.5),
    "adafactor": lambda groups: optim.Adafactor(groups, lr=0.01),
    "adagrad": lambda groups: optim.Adagrad(groups, lr=0.01, initial_accumulator_value=0.1, lr_decay=0.01),
    "adagrad fused": lambda groups: optim.Adagrad(groups, lr=0.01, fused=True),
    "adam amsgrad": lambda groups: optim.Adam(groups, lr=0.01, amsgrad=True),
    "adamax": lambda groups: optim.Adamax(groups, lr=0.01),
    "adamw": lambda groups: optim.AdamW(groups, lr=0.01),
    "adamw foreach": lambda groups: optim.AdamW(groups, lr=0.01, foreach=True),
    "adamw fused": lambda groups: optim.AdamW(groups, lr=0.01, fused=True),
    "asgd": lambda groups: optim.ASGD(groups, lr=0.01, t0=3),
    "nadam": lambda groups: optim.NAdam(groups, lr=0.01),
    "radam": lambda groups: optim.RAdam(groups, lr=0.01),
    "rmsprop": lambda groups: optim.RMSprop(groups, lr=0.001, momentum=0.9, centered=True),
    "rprop": lambda groups: optim.Rprop(groups, lr=0.001),
    "sgd": lambda groups: optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=0.01),
    "sgd fused": lambda groups: optim.SGD(groups, lr=0.01, momentum=0.9, fused=True),
    "sgd plain": lambda groups: optim.SGD(groups, lr=0.01),
}
#: tested on their own below: LBFGS has one group and a closure, Muon holds matrices only; SparseAdam takes only sparse
#: gradients, which no parameter that grows has
APART = {"LBFGS", "Muon", "SparseAdam"}


class Block(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(6), nn.Linear(6, 8, bias=bias), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))


class Net(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.blocks = nn.Sequential(Block(bias), Block(bias))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x * self.scale))


def network(bias: bool = True) -> Net:
    """Return a network whose numbers do not depend on the processor."""
    net, drawn = Net(bias), np.random.default_rng(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.from_numpy(0.5 * drawn.standard_normal(parameter.shape)))
    return net


def train(model: fx.GraphModule, optimizer: Optimizer | list[Optimizer], steps: int, seed: int) -> None:
    drawn = np.random.default_rng(seed)
    optimizers = optimizer if isinstance(optimizer, list) else [optimizer]
    for _ in range(steps):
        x, y = (torch.from_numpy(drawn.standard_normal((16, size))).float() for size in (6, 3))

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            model.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            return loss

        for one in optimizers:
            one.step(closure)


def whole(model: nn.Module) -> Any:
    return list(model.parameters())


def by_dimension(model: nn.Module) -> Any:
    parameters = list(model.parameters())
    decayed, plain = ([p for p in parameters if (p.dim() > 1) is matrix] for matrix in (True, False))
    return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]


def by_depth(model: nn.Module) -> Any:
    """Part the parameters by block, and those of each block by dimension, as layer-wise decay does."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        block = name.split(".")[1] if name.startswith("blocks.") else "outside"
        groups.setdefault((block, parameter.dim() > 1), []).append(parameter)
    return [{"params": parameters, "lr": 0.002 * (place + 1)} for place, parameters in enumerate(groups.values())]


RULES: dict[str, Callable[[nn.Module], Any]] = {"whole": whole, "dimension": by_dimension, "depth": by_depth}


def grow_twice(traced: fx.GraphModule, optimizer: Any, seed: int = 1) -> fx.GraphModule:
    """Train, and grow inside blocks, inside of what grew, and by a wider layer, with steps between."""
    steps = iter(range(seed, seed + 9))
    train(traced, optimizer, 2, next(steps))
    edits = [
        InsertPseudoLayers({"blocks.0.fc1": (0, 3), "head": (1,), "blocks.1.fc2": (2,)}, "serial"),
        InsertPseudoLayers({"blocks.0.fc1_pseudo_0.fc1": (0, 1), "blocks.0.fc1": (4,)}, "gated"),
    ]
    for edit in edits:
        traced = edit(traced, optimizer).graph_module
        train(traced, optimizer, 2, next(steps))
    traced = fxgrow.widen(traced, "blocks.1.fc1", by=2, how="split", optimizer=optimizer)
    train(traced, optimizer, 2, next(steps))
    return traced


def assert_resumes(
    traced: fx.GraphModule, optimizer: Any, make: Callable[[nn.Module], Any], base: nn.Module, path: Any
) -> None:
    """Go on from a file, as plain PyTorch does, and compare with the run that was not interrupted."""
    fxgrow.save(traced, path)
    several = isinstance(optimizer, list)
    saved = copy.deepcopy([one.state_dict() for one in optimizer] if several else optimizer.state_dict())
    loaded = fxgrow.load(path, base=base)
    resumed = make(loaded)
    for one, document in zip(resumed, saved, strict=True) if several else [(resumed, saved)]:
        one.load_state_dict(document)
    for model, going in ((traced, optimizer), (loaded, resumed)):
        train(model, going, 20, seed=99)
    assert [name for name, _ in traced.named_parameters()] == [name for name, _ in loaded.named_parameters()]
    for (name, parameter), other in zip(traced.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(parameter, other), name


def test_every_optimizer_of_torch_is_tested() -> None:
    known = {type(make([nn.Parameter(torch.zeros(2, 2))])).__name__ for make in MAKERS.values()} | APART
    every = {name for name, kind in vars(optim).items() if isinstance(kind, type) and issubclass(kind, Optimizer)}
    assert known == every - {"Optimizer"}


@pytest.mark.parametrize(
    ("name", "rule"), [*((name, "depth") for name in MAKERS), ("adamw", "whole"), ("adamw", "dimension")]
)
def test_a_run_that_grew_twice_goes_on_from_a_file_bit_for_bit(name: str, rule: str, tmp_path: Any) -> None:
    base, make = network(), lambda model: MAKERS[name](RULES[rule](model))
    traced = fxgrow.trace(base, torch.ones(2, 6))
    optimizer = make(traced)
    grown = grow_twice(traced, optimizer)
    assert_resumes(grown, optimizer, make, base, tmp_path / "model.pt")


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_goes_on_with_a_new_history(line_search: str | None, tmp_path: Any) -> None:
    def make(model: nn.Module) -> Optimizer:
        return optim.LBFGS(model.parameters(), lr=0.01, max_iter=3, line_search_fn=line_search)

    base = network()
    traced = fxgrow.trace(base, torch.ones(2, 6))
    optimizer = make(traced)
    grown = grow_twice(traced, optimizer)
    assert_resumes(grown, optimizer, make, base, tmp_path / "model.pt")


@pytest.mark.parametrize("bias", [True, False])
def test_muon_and_adamw_share_a_growing_model(bias: bool, tmp_path: Any) -> None:
    def make(model: nn.Module) -> list[Optimizer]:
        parted = by_dimension(model)
        return [optim.Muon(parted[0]["params"], lr=0.01), optim.AdamW(parted[1]["params"], lr=0.01)]

    base = network(bias)
    traced = fxgrow.trace(base, torch.ones(2, 6))
    optimizers = make(traced)
    grown = grow_twice(traced, optimizers)
    muon, adamw = ([id(p) for p in one.param_groups[0]["params"]] for one in optimizers)
    assert muon == [id(p) for p in grown.parameters() if p.dim() == 2]
    assert adamw == [id(p) for p in grown.parameters() if p.dim() == 1]
    assert_resumes(grown, optimizers, make, base, tmp_path / "model.pt")


def test_the_groups_of_a_site_without_a_bias_stay_parted_by_dimension(tmp_path: Any) -> None:
    base, make = network(bias=False), lambda model: MAKERS["adamw"](by_depth(model))
    traced = fxgrow.trace(base, torch.ones(2, 6))
    optimizer = make(traced)
    grown = grow_twice(traced, optimizer)
    assert_resumes(grown, optimizer, make, base, tmp_path / "model.pt")


def test_what_is_inserted_undone_and_merged_leaves_the_order_of_the_model(tmp_path: Any) -> None:
    base, make = network(), lambda model: MAKERS["adamw"](by_dimension(model))
    traced = fxgrow.trace(base, torch.ones(2, 6))
    optimizer = make(traced)
    for edit in (
        lambda model: fxgrow.insert_block(model, after=["blocks.0", "blocks.1"], optimizer=optimizer),
        lambda model: fxgrow.add_residual_edge(model, source="blocks.0", target="blocks.2", optimizer=optimizer),
        lambda model: InsertPseudoLayers({"blocks.0.fc1": (0, 3)}, "branch")(model, optimizer).graph_module,
        lambda model: InsertPseudoLayers({"blocks.0.fc1": (1, 3)}, "branch")(model, optimizer).graph_module,
        lambda model: fxgrow.merge_branches(model, optimizer=optimizer),
        lambda model: InsertPseudoLayers({"blocks.1.fc1": (1, 3)}, "paper")(model, optimizer).graph_module,
        lambda model: fxgrow.fold_pairs(model, optimizer=optimizer),
        lambda model: fxgrow.undo(model, [1], optimizer=optimizer),
    ):
        traced = edit(traced)
        train(traced, optimizer, 2, seed=5)
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert held == [id(p) for group in by_dimension(traced) for p in group["params"]]
    assert_resumes(traced, optimizer, make, base, tmp_path / "model.pt")
