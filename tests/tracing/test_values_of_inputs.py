"""Whole numbers that follow from the values of integer inputs: fixed where nothing else helps, and asserted."""

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import TraceError
from fxgrow.record.record import record_of
from fxgrow.testing import Draws, random_scores


class Padded(nn.Module):
    """Makes a mask as wide as the longest of its rows, in its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        positions = torch.arange(int(lengths.max()), device=lengths.device)
        mask = positions.expand(x.shape[0], -1) < lengths[:, None]
        return self.last(torch.relu(self.first(x)) * mask[..., None]).sum(1)


X, LENGTHS = Draws(dtype=torch.float32).normal(3, 5, 6), torch.tensor([5, 4, 2])


def test_the_longest_length_is_fixed_and_another_one_is_an_error():
    model = Padded()
    traced = fxgrow.trace(model, (X, LENGTHS))
    (note,) = [note for note in record_of(traced).trace_notes if "fixed" in note]
    assert note == "a whole number is fixed, and asserted, though its control flow depends on the values of lengths"
    other = torch.tensor([1, 5, 5])
    assert torch.equal(traced(X, other), model(X, other))
    with pytest.raises(AssertionError, match="traced for inputs of another size, type or number"):
        traced(X, torch.tensor([1, 2, 2]))


def test_such_a_model_is_verified_on_drawn_inputs_and_comes_back_from_its_file(tmp_path):
    model = Padded()
    traced = fxgrow.trace(model, (X, LENGTHS))
    grown = fxgrow.grow(traced, random_scores(traced), budget=60)
    fxgrow.verify(model, grown)
    fxgrow.save(grown, tmp_path / "model.pt")
    assert torch.equal(fxgrow.load(tmp_path / "model.pt", base=model)(X, LENGTHS), grown(X, LENGTHS))


def test_a_module_that_looks_at_values_stays_whole_rather_than_that_a_number_is_fixed():
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.padded, self.head = Padded(), nn.Linear(3, 3)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return self.head(self.padded(x, lengths))

    model = Around()
    traced = fxgrow.trace(model, (X, LENGTHS))
    assert record_of(traced).trace_policy["leaves"] == ["padded"]
    shorter = torch.tensor([1, 5, 3])
    assert torch.equal(traced(X, shorter), model(X, shorter))


def mask_of(lengths: Tensor) -> Tensor:
    return torch.arange(int(lengths.max())) < lengths[:, None]


class MaskedInHelper(nn.Module):
    """The mask is as wide as the longest row, and must be as wide as the input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mask = mask_of(lengths)
        if mask.shape[1] != x.shape[1]:
            raise ValueError(f"a mask of {mask.shape[1]} for rows of {x.shape[1]}")
        return torch.cat([self.linear(x), mask[..., None]], dim=-1)


def test_shapes_that_follow_from_the_values_of_small_integer_inputs_are_found_and_kept_in_the_file(tmp_path):
    model = MaskedInHelper()
    traced = fxgrow.trace(model, (X, LENGTHS))
    grown = fxgrow.grow(traced, random_scores(traced), budget=60)
    fxgrow.save(grown, tmp_path / "model.pt")
    again = fxgrow.load(tmp_path / "model.pt", base=model)
    other = torch.tensor([0, 5, 1])
    assert torch.equal(again(X, other), grown(X, other))
    with pytest.raises(RuntimeError, match="traced for inputs of another size, type or number"):
        again(X, torch.tensor([1, 2, 2]))


def test_what_is_asserted_of_such_shapes_compiles_as_one_graph():
    traced = fxgrow.trace(MaskedInHelper(), (X, LENGTHS), check=False)
    compiled = torch.compile(traced, backend="eager", fullgraph=True)
    assert torch.equal(compiled(X, LENGTHS), traced(X, LENGTHS))


class Thresholded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)[: int(x.sum()) + 100]


def test_a_number_that_follows_from_measured_values_is_not_fixed():
    with pytest.raises(TraceError, match="control flow depends on the values of x"):
        fxgrow.trace(Thresholded(), X[0])
