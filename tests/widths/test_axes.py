"""Axes follow reshapes exactly, and are frozen where a cut goes through them."""

import itertools

import pytest
import torch

from fxgrow.widths.axes import Dim, dim_of, freeze, leaves, reshape, resizable, size_of, unify


def sizes(dims: tuple[Dim, ...]) -> list[list[int]]:
    return [[axis.size for axis in leaves(dim)] for dim in dims]


def coordinates(dims: tuple[Dim, ...]) -> dict[object, torch.Tensor]:
    """Return the position along each axis of every element of a tensor with these dimensions, flattened."""
    axes = [axis for dim in dims for axis in leaves(dim)]
    grid = torch.meshgrid(*(torch.arange(axis.size) for axis in axes), indexing="ij")
    return {axis: positions.flatten() for axis, positions in zip(axes, grid, strict=True)}


@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 5, 24), (2, 5, 3, 2, 4), (2, 5, 6, 4), (10, 24)],
        [(2, 1, 12), (2, 4, 3), (8, 3), (2, 2, 2, 3)],
        [(6, 1), (1, 6), (2, 3), (6,)],
    ],
)
def test_an_axis_runs_along_the_same_elements_after_every_reshape(shapes: list[tuple[int, ...]]) -> None:
    first = tuple(dim_of(size) for size in shapes[0])
    seen = [first]
    for shape in shapes[1:]:
        seen.append(reshape(seen[-1], shape, "it is cut"))
        assert [size_of(dim) for dim in seen[-1]] == list(shape)
    for one, other in itertools.pairwise(seen):  # a reshape moves no element, so positions must agree
        before, after = coordinates(one), coordinates(other)
        assert set(before) == set(after)
        assert all(torch.equal(before[axis], after[axis]) for axis in before)


def test_a_cut_through_an_axis_freezes_it() -> None:
    dims = (dim_of(6), dim_of(4))
    made = reshape(dims, (4, 6), "it is cut")
    assert [size_of(dim) for dim in made] == [4, 6]
    assert {axis.frozen for dim in (*dims, *made) for axis in leaves(dim)} == {"it is cut"}


def test_unified_dimensions_are_cut_alike() -> None:
    rows, heads = dim_of(24), (*dim_of(3), *dim_of(8))
    unify(rows, heads, "they differ")
    assert leaves(rows) == leaves(heads)
    assert sizes((rows,)) == [[3, 8]]


def test_what_is_cut_later_is_cut_for_all_that_were_unified() -> None:
    first, second = dim_of(24), dim_of(24)
    unify(first, second, "they differ")
    reshape((second,), (2, 12), "it is cut")
    assert sizes((first,)) == [[2, 12]]


def test_freezing_reaches_all_that_were_unified_and_the_first_reason_holds() -> None:
    first, second = dim_of(8), dim_of(8)
    unify(first, second, "they differ")
    freeze((first,), "an input")
    freeze((second,), "an output")
    assert [axis.frozen for axis in leaves(second)] == ["an input"]
    assert resizable(second) == ()


def test_dimensions_of_other_sizes_are_frozen_and_ones_are_broadcast() -> None:
    first, second = dim_of(6), dim_of(4)
    unify(first, second, "they differ")
    assert {axis.frozen for dim in (first, second) for axis in leaves(dim)} == {"they differ"}
    free = dim_of(5)
    assert leaves(unify(free, dim_of(1), "they differ")) == leaves(free)
    assert not leaves(free)[0].frozen
