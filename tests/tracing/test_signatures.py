"""Every way in which a model may be called: what is a tensor is an input, and what is none is fixed."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

import fxgrow
from fxgrow.errors import FileError, TraceError
from fxgrow.execution.calling import Inputs
from fxgrow.record.record import record_of
from fxgrow.testing import Draws, random_scores


class Kind(enum.Enum):
    SUM = "sum"
    MEAN = "mean"


class Layers(nn.Module):
    """Two Linears, for forwards that take their input in different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def between(self, x: Tensor, scale: Any = 1.0) -> Tensor:
        return self.last(F.gelu(self.first(x)) * scale)


class FixedBetween(Layers):
    def forward(self, x: Tensor, times: int = 3, mask: Tensor | None = None, *, kind: Kind = Kind.SUM) -> Tensor:
        h = self.between(x, times)
        h = h if mask is None else h * mask
        return h.sum(1) if kind is Kind.SUM else h.mean(1)


class KeywordOnly(Layers):
    def forward(self, x: Tensor, /, *, name: str | None = None, shift: Tensor) -> Tensor:
        return self.between(x if name is None else -x) + shift


class ManyPositional(Layers):
    def forward(self, *xs: Tensor, weight: Tensor | None = None) -> Tensor:
        h = self.between(sum(xs[1:], xs[0]))
        return h if weight is None else h * weight


class Nested(Layers):
    def forward(self, x: dict[str, Any], more: list[Tensor | None]) -> Tensor:
        left, right = x["pair"]
        return self.between(x["image"] + left - right) + sum((y for y in more if y is not None), torch.zeros(()))


class Masked(Layers):
    """Takes two masks, of which either may be missing, as attention does."""

    def forward(self, x: Tensor, mask: Tensor | None, keep: Tensor | None) -> Tensor:
        h = self.between(x)
        h = h if mask is None else h - mask
        return h if keep is None else h * keep


@dataclass
class Sample:
    image: Tensor
    name: str
    weight: Tensor | None = None


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


class Held:
    """An object that is no dataclass and holds tensors, as the nested tensors of detectors."""

    def __init__(self, tensors: Tensor, mask: Tensor) -> None:
        self.tensors, self.mask, self.size = tensors, mask, 6


class OfSample(Layers):
    def forward(self, sample: Sample) -> Tensor:
        assert isinstance(sample, Sample)
        h = self.between(sample.image)
        return h if sample.weight is None else h * sample.weight


class OfHeld(Layers):
    def forward(self, held: Held) -> Tensor:
        return self.between(held.tensors[..., : held.size] * held.mask)


class OfOutput(Layers):
    def forward(self, output: BaseModelOutput) -> Tensor:
        return self.between(output.last_hidden_state) + (
            0 if output.hidden_states is None else output["hidden_states"][0]
        )


class OfPair(Layers):
    def forward(self, pair: Pair, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.between(pair.left + pair.right).to(dtype)


def draw(*shape: int) -> Tensor:
    return Draws(dtype=torch.float32).normal(*shape)


X, ROW, CLASSES = draw(4, 6), torch.ones(4, 1), draw(4, 3)
CASES: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "number before a tensor": (FixedBetween, (X, 2, CLASSES)),
    "None before a tensor": (KeywordOnly, {"x": X, "name": None, "shift": CLASSES}),
    "None in place of a tensor before one": (Masked, (X, None, ROW)),
    "None behind a tensor": (Masked, (X, ROW, None)),
    "None and a tensor by keyword": (Masked, {"keep": ROW, "x": X, "mask": None}),
    "None inside a list": (Nested, ({"image": X, "pair": (X, 2 * X)}, [None, CLASSES])),
    "text before a tensor": (KeywordOnly, {"x": X, "name": "other", "shift": CLASSES}),
    "enumeration by keyword": (FixedBetween, {"x": X, "mask": CLASSES, "kind": Kind.MEAN}),
    "left out between": (FixedBetween, {"x": X, "mask": CLASSES}),
    "in another order": (FixedBetween, {"mask": CLASSES, "times": 2, "x": X}),
    "only positional": (ManyPositional, (X, 2 * X, 3 * X)),
    "positional and keyword": (ManyPositional, {"xs": (X, 2 * X), "weight": CLASSES}),
    "a dict": (Nested, ({"image": X, "pair": (X, 2 * X)}, [CLASSES, CLASSES])),
    "a dict by keyword": (Nested, {"x": {"image": X, "pair": (X, 2 * X)}, "more": [CLASSES]}),
    "a dataclass": (OfSample, (Sample(X, "one", CLASSES),)),
    "a dataclass without one of its tensors": (OfSample, {"sample": Sample(X, "one")}),
    "an object that holds tensors": (OfHeld, (Held(X, ROW),)),
    "a model's output": (OfOutput, (BaseModelOutput(last_hidden_state=X, hidden_states=(CLASSES,)),)),
    "a named tuple": (OfPair, (Pair(X, 2 * X), torch.float32)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_model_is_traced_as_it_is_called_grows_and_comes_back_from_its_file(case: str, tmp_path):
    build, given = CASES[case]
    model = build()
    traced = fxgrow.trace(model, given)
    assert list(fxgrow.find_sites(traced)) == ["first", "last"]
    inputs = Inputs.of(model, given)
    assert torch.equal(inputs.call(traced), inputs.call(model))
    grown = fxgrow.grow(traced, random_scores(traced), budget=40)
    fxgrow.verify(model, grown, given)
    fxgrow.verify(model, grown)
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(0.1)
    fxgrow.save(grown, tmp_path / "model.pt")
    again = fxgrow.load(tmp_path / "model.pt", base=model)
    assert torch.equal(inputs.call(again), inputs.call(grown))
    assert record_of(again) == record_of(grown)


@pytest.mark.parametrize("case", CASES)
def test_curvature_is_measured_on_inputs_of_every_kind(case: str):
    build, given = CASES[case]
    traced = fxgrow.trace(build(), given)
    with pytest.warns(UserWarning, match="mostly noise"):
        scores = fxgrow.analyze(traced, lambda output, target: output.square().mean(), [(given, ROW)], iterations=2)
    assert list(scores.sites) == ["first", "last"]


def test_what_holds_no_tensor_is_fixed_named_in_the_notes_and_cannot_be_changed():
    traced = fxgrow.trace(FixedBetween(), (X, 2, CLASSES))
    assert "argument times is fixed at 2" in record_of(traced).trace_notes
    assert torch.equal(traced(X, mask=CLASSES), traced(X, 2, CLASSES))
    with pytest.raises(AssertionError, match="times is fixed at 2 in this graph"):
        traced(X, 3, CLASSES)
    traced = fxgrow.trace(KeywordOnly(), {"x": X, "name": None, "shift": CLASSES})
    with pytest.raises(AssertionError, match="name is fixed at None in this graph"):
        traced(X, name="other", shift=CLASSES)


def test_a_tensor_behind_a_fixed_value_must_be_given():
    traced = fxgrow.trace(FixedBetween(), (X, 2, CLASSES))
    with pytest.raises(AssertionError, match="mask must be given"):
        traced(X)
    with pytest.raises(TraceError, match="mask: an input is missing"):
        fxgrow.trace(traced, X)


class Options:
    """An object without tensors."""

    def __init__(self, negative: bool) -> None:
        self.negative = negative


class Configured(Layers):
    def forward(self, x: Tensor, options: Options) -> Tensor:
        return self.between(-x if options.negative else x)


def test_an_object_is_fixed_too_and_what_a_file_cannot_hold_is_not_saved(tmp_path):
    model, options = Configured(), Options(negative=True)
    traced = fxgrow.trace(model, (X, options))
    assert torch.equal(traced(X, options), model(X, options))
    with pytest.raises(FileError, match="options: it was fixed at an object"):
        fxgrow.save(traced, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def wrapped_by_compile(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [nn.DataParallel, wrapped_by_compile])
def test_what_a_wrapper_holds_is_traced_under_its_own_names(wrap: Callable[[nn.Module], nn.Module], tmp_path):
    model = wrap(Nested())
    given = ({"image": X, "pair": (X, X)}, [CLASSES])
    traced = fxgrow.trace(model, given)
    assert list(fxgrow.find_sites(traced)) == ["first", "last"]
    fxgrow.save(traced, tmp_path / "model.pt")
    for base in (model, Nested()):
        again = fxgrow.load(tmp_path / "model.pt", base=base)
        assert torch.equal(again(*given), traced(*given))


class Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.DataParallel(nn.Linear(6, 8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def test_a_wrapper_inside_a_model_is_traced_through():
    model = Inside()
    traced = fxgrow.trace(model, X)
    assert list(fxgrow.find_sites(traced)) == ["body.module", "head"]
    assert list(traced.state_dict()) == list(model.state_dict())
