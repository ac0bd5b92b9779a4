"""A wrong argument of a public function is told by its name, in an error of our own, before anything is done."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.errors import FxgrowError
from fxgrow.primitives.arguments import checks_arguments, fits, spell
from fxgrow.testing import Draws

DATA = Draws(dtype=torch.float32)
X, TARGET = DATA.normal(12, 6), torch.arange(12) % 3
PAIRS = [(X, TARGET)]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


def model() -> nn.Sequential:
    return nn.Sequential(Block(), Block(), nn.Linear(6, 3))


@pytest.fixture(scope="module")
def calls() -> dict[Callable[..., Any], dict[str, Any]]:
    """Return right arguments of every public function."""
    traced = fxgrow.trace(model(), X)
    with pytest.warns(fxgrow.curvature.FewSamplesWarning):
        scores = fxgrow.analyze(traced, F.cross_entropy, PAIRS)
    grown = fxgrow.grow(traced, scores, budget=0.5)
    optimizer = torch.optim.SGD(traced.parameters(), 0.1)
    return {
        fxgrow.trace: {"model": model(), "example_inputs": X},
        fxgrow.trace_inside: {"model": model(), "path": "0", "example_inputs": X},
        fxgrow.analyze: {"traced": traced, "loss_fn": F.cross_entropy, "batches": PAIRS},
        fxgrow.plan: {"traced": traced, "scores": scores},
        fxgrow.grow: {"traced": traced, "scores": scores},
        fxgrow.grow_inside: {"model": model(), "path": "0", "loss_fn": F.cross_entropy, "batches": PAIRS},
        fxgrow.verify: {"before": traced, "after": grown},
        fxgrow.save: {"graph_module": grown, "path": "model.pt"},
        fxgrow.load: {"path": "model.pt"},
        fxgrow.widen: {"traced": traced, "site": "0.fc1", "by": 2},
        fxgrow.slim: {"traced": traced},
        fxgrow.deepen: {"traced": traced},
        fxgrow.insert_block: {"traced": traced, "after": "0"},
        fxgrow.add_residual_edge: {"traced": traced, "source": "0", "target": "1"},
        fxgrow.undo: {"grown": grown},
        fxgrow.fold_pairs: {"grown": grown},
        fxgrow.merge_branches: {"grown": grown},
        fxgrow.Progressive: {"model": model(), "example_inputs": X},
        fxgrow.Stage: {},
        fxgrow.Grower: {"traced": traced, "loss_fn": F.cross_entropy, "optimizer": optimizer},
    }


def _named(function: Callable[..., Any]) -> Iterator[str]:
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            yield name


def test_what_is_no_argument_at_all_is_refused_by_every_public_function(
    calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    public = {getattr(fxgrow, name) for name in fxgrow.__all__ if inspect.isroutine(getattr(fxgrow, name))}
    of_one_graph = {fxgrow.find_sites, fxgrow.depth_map, fxgrow.to_networkx, fxgrow.new_parameters, fxgrow.compile}
    assert public - of_one_graph <= calls.keys()
    for function, arguments in calls.items():
        for name in _named(function):
            with pytest.raises(FxgrowError, match="; "):
                function(**{**arguments, name: object()})
    for function in of_one_graph:
        with pytest.raises(FxgrowError, match="it is no"):
            function(object())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (fxgrow.grow, {"scores": {"fc1": 1.0}}, "scores: it is a dict; give what fxgrow.analyze returned"),
        (fxgrow.grow, {"include": "0.*"}, "include: it is a str; give a tuple of strings or a list of strings"),
        (fxgrow.grow, {"operator": None}, "operator: it is a NoneType; give a string"),
        (fxgrow.grow, {"seed": np.int64(3)}, "seed: it is an int64; give a whole number"),
        (fxgrow.grow, {"budget": "10%"}, "budget: it is a str; give a fraction of the parameters as a float"),
        (fxgrow.grow, {"seed": 2**64}, "seed: it takes more than 64 bits; give a whole number"),
        (fxgrow.Grower, {"optimizer": []}, "optimizer: there is none; give the optimizer that trains the model"),
        (fxgrow.Grower, {"max_samples": 0}, "max_samples 0: it is not positive; give 1 or more"),
        (fxgrow.Grower, {"ema": "timm"}, "ema: it is no nn.Module, but a str; give a module"),
        (fxgrow.trace_inside, {"example_inputs": X[:, :5]}, "Sequential: the model does not run on these inputs"),
        (fxgrow.verify, {"tolerance": float("nan")}, "tolerance: it is nan; give a number or None"),
        (fxgrow.verify, {"modes": "eval"}, "modes: it is a str; give a sequence of strings"),
        (fxgrow.widen, {"by": 2.5}, "by: it is a float; give a whole number"),
        (fxgrow.widen, {"heads": "yes"}, "heads: it is a str; give True or False"),
        (fxgrow.save, {"path": None}, "path: it is a NoneType; give a path"),
        (fxgrow.undo, {"events": ["last"]}, r"events: it is \['last'\]; give an iterable of whole numbers"),
        (fxgrow.Grower, {"scheduler": F.gelu}, "scheduler: it is a builtin_function_or_method; give a Stateful"),
        (fxgrow.analyze, {"place": "backbone"}, "place: it is a str; give a Place or None"),
        (fxgrow.analyze, {"batches": 7}, r"batches: it is an int; give pairs \(inputs, target\)"),
    ],
)
def test_a_mistake_that_people_make_is_told(calls, function, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FxgrowError, match=message):
        function(**{**calls[function], **options})


def test_a_missing_argument_stays_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'scores'"):
        fxgrow.grow(model())  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (int, [0, -3], [True, 1.0, "1", None]),
        (float, [0, 0.5, float("inf")], [False, "0.5", float("nan")]),
        (bool, [True], [1, 0, None]),
        (int | None, [None, 2], [2.0]),
        (Literal["half", "zero"], ["half", "something else: the function says which there are"], [None, 3]),
        (Literal[False], [False], [None, "no"]),
        (tuple[str, ...] | list[str], [(), ["a"]], ["a", (1,), {"a"}]),
        (Sequence[int], [[1, 2], (), range(3)], ["12", {1}, [0.5]]),
        (Mapping[str, Any], [{}, {"a": 1}], [[], None]),
        (Callable[[int], int], [abs], ["abs"]),
        (nn.Module | None, [None, nn.ReLU(), "left to the function, which looks into wrappers"], []),
        (Any, [None, object()], []),
    ],
)
def test_a_value_fits_an_annotation_or_not(hint: Any, right: list[Any], wrong: list[Any]) -> None:
    assert all(fits(value, hint) for value in right)
    assert not any(fits(value, hint) for value in wrong)
    assert spell(hint)


def test_the_function_is_not_entered_with_a_wrong_argument() -> None:
    entered = []

    @checks_arguments(FxgrowError)
    def enter(count: int, *rest: int, **more: int) -> None:
        entered.append(count)

    enter(1, "what is variadic is the function's own", more="too")  # type: ignore[arg-type]
    with pytest.raises(FxgrowError, match="count: it is a str; give a whole number"):
        enter("1")  # type: ignore[arg-type]
    assert entered == [1]
