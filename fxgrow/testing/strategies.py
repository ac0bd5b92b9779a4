"""Random networks, as hypothesis strategies. They shrink towards few and small steps that read the latest value."""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from fxgrow.testing.draws import Draws
from fxgrow.testing.networks import (
    ACTIVATIONS,
    IN_PLACE_ACTIVATIONS,
    Layer,
    RandomNetwork,
    Recipe,
    Shape,
    channels,
    is_image,
    output_shape,
)

_INPUT_SHAPES: tuple[Shape, ...] = ((4,), (3, 4), (4, 5, 5))
#: kinds of steps whose result is fresh memory that their own backward does not read again
_FRESH = {"linear", "functional-linear", "tied-linear", "layer-norm", "batch-norm", "group-norm", "conv", "add",
          "transposed-conv"}  # fmt: skip
_REUSABLE = _FRESH - {"add"} | {"attention", "attention-dropout"}


@st.composite
def graph_modules(
    draw: DrawFn, *, max_steps: int = 8, batch_size: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[RandomNetwork, tuple[Tensor, ...]]:
    """Draw a random network in train mode, and example inputs for it.

    Networks are directed acyclic graphs of Linear layers, grouped, strided and transposed convolutions, norms,
    attention, activations (some in place), dropout, concatenation, skips, products, reused modules and tied weights.
    A failing example prints as ``RandomNetwork(Recipe(...))``, which can be pasted into a test.

    Args:
        draw: Given by hypothesis.
        max_steps: How many operations a network has at most.
        batch_size: Leading dimension of the inputs; at least 2, or BatchNorm cannot train.
        dtype: Dtype of weights and inputs.

    Example:
        >>> from hypothesis import given
        >>> @given(graph_modules())
        ... def test_my_pass(drawn):
        ...     model, example_inputs = drawn
        ...     traced = fxgrow.trace(model, example_inputs)
        ...     assert_same_function(traced, MyPass()(traced).graph_module, example_inputs)
    """
    recipe = draw(recipes(max_steps=max_steps))
    inputs = Draws(recipe.seed, dtype, stream=1).normal(batch_size, *recipe.input_shape)
    return RandomNetwork(recipe).to(dtype).train(), (inputs,)


@st.composite
def recipes(draw: DrawFn, *, max_steps: int = 8) -> Recipe:
    """Draw a network as data (`fxgrow.testing.networks.Recipe`)."""
    builder = _RecipeBuilder(draw(st.sampled_from(_INPUT_SHAPES)))
    for _ in range(draw(st.integers(1, max_steps))):
        builder.add_step(draw)
    return Recipe(builder.shapes[0], tuple(builder.steps), draw(st.integers(0, 2**16)))


class _RecipeBuilder:
    """The steps so far, the shapes of their values, and which values a step may mutate."""

    def __init__(self, input_shape: Shape) -> None:
        self.steps: list[Layer] = []
        self.shapes: list[Shape] = [input_shape]
        self.mutable: set[int] = set()

    def add_step(self, draw: DrawFn) -> None:
        latest = len(self.shapes) - 1
        read = latest - draw(st.integers(0, latest))
        step = draw(st.one_of(*self._candidates(read)))
        self.shapes.append(output_shape(self.steps, step, [self.shapes[index] for index in step.reads]))
        self.steps.append(step)
        self.mutable -= set(step.reads)
        if step.kind in _FRESH:
            self.mutable.add(latest + 1)

    def _candidates(self, read: int) -> Iterator[SearchStrategy[Layer]]:
        """Yield strategies for the steps that can read value `read`, simple ones first."""
        yield from (self._convolutions if is_image(self.shapes[read]) else self._dense_layers)(read)
        yield _steps(ACTIVATIONS, read)
        if read in self.mutable:  # more often than others: only a value that nothing has read yet qualifies
            yield from 3 * [_steps(IN_PLACE_ACTIVATIONS, read)]
        yield _steps(("dropout", "functional-dropout"), read)
        yield from self._joins(read)
        reusable = tuple(
            index
            for index, step in enumerate(self.steps)
            if step.kind in _REUSABLE and self.shapes[step.reads[0]] == self.shapes[read]
        )
        if reusable:
            yield _steps("reuse", read, of=reusable)

    def _dense_layers(self, read: int) -> Iterator[SearchStrategy[Layer]]:
        width = self.shapes[read][-1]
        yield _steps(("linear", "functional-linear"), read, size=range(2, 7))
        yield _steps("layer-norm", read)
        for index, step in enumerate(self.steps):
            if step.kind == "linear" and channels(self.shapes[step.reads[0]]) == width:
                yield _steps("tied-linear", read, size=step.size, of=index)
        if len(self.shapes[read]) == 1:
            yield _steps("batch-norm", read)
        else:
            heads = tuple(heads for heads in (1, 2) if width % heads == 0)
            yield _steps(("attention", "attention-dropout"), read, groups=heads)
            yield _steps("mean", read)

    def _convolutions(self, read: int) -> Iterator[SearchStrategy[Layer]]:
        width, *extent = self.shapes[read]
        strides = range(1, 3 if max(extent) < 10 else 2)
        for groups in sorted({1, 2, width}):
            if width % groups == 0:
                sizes = tuple(size for size in range(groups, 13, groups) if size <= max(6, groups))
                yield _steps(("conv", "transposed-conv"), read, size=sizes, groups=groups, stride=strides)
        yield _steps(("batch-norm", "group-norm", "pool", "tokens"), read)

    def _joins(self, read: int) -> Iterator[SearchStrategy[Layer]]:
        shape = self.shapes[read]
        others = {index: other for index, other in enumerate(self.shapes) if index != read}
        alike = tuple(index for index, other in others.items() if other == shape)
        if alike:
            kinds = ("add", "multiply", "add_") if read in self.mutable else ("add", "multiply")
            yield _steps(kinds, read, alike)
        if read and self.steps[read - 1].kind in (*IN_PLACE_ACTIVATIONS, "add_"):  # who reads what was overwritten?
            overwritten = self.steps[read - 1].reads[0]
            yield _steps(("add", "concat"), read, overwritten)
        stackable = tuple(
            index
            for index, other in enumerate(self.shapes)
            if _without_channels(other) == _without_channels(shape) and channels(other) + channels(shape) <= 12
        )
        if stackable:
            yield _steps("concat", read, stackable)


#: a value, some to choose from, or the whole numbers of a range, the least being the simplest
_Choice = str | int | tuple[str, ...] | tuple[int, ...] | range


@functools.cache  # hypothesis checks each strategy that is made, which takes longer than to draw from it
def _steps(
    kinds: str | tuple[str, ...], read: int, other: int | tuple[int, ...] | None = None, **details: _Choice
) -> SearchStrategy[Layer]:
    """Return a strategy for steps of some kinds that read value `read`, and an other one if given."""
    reads = st.just((read,)) if other is None else st.tuples(st.just(read), _one_of(other))
    return st.builds(Layer, _one_of(kinds), reads, **{name: _one_of(choice) for name, choice in details.items()})


def _one_of(choice: _Choice) -> SearchStrategy[Any]:
    if isinstance(choice, range):
        return st.integers(choice[0], choice[-1])
    return st.sampled_from(choice) if isinstance(choice, tuple) else st.just(choice)


def _without_channels(shape: Shape) -> tuple[int, Shape]:
    return len(shape), shape[1:] if is_image(shape) else shape[:-1]
