"""Networks built from a recipe: plain data that prints, shrinks, and builds the same network again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.execution.randomness import preserved_randomness
from fxgrow.testing.draws import Draws
from fxgrow.testing.samples import unsettle_norms

#: shape of a value without the batch: (features,), (tokens, features) or (channels, height, width)
Shape = tuple[int, ...]

CLASSES = 3
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU, "sigmoid": nn.Sigmoid, "mish": nn.Mish,
}  # fmt: skip
ACTIVATIONS = tuple(_ACTIVATIONS)
_IN_PLACE = {"relu_": nn.ReLU, "silu_": nn.SiLU, "hardtanh_": nn.Hardtanh}
IN_PLACE_ACTIVATIONS = tuple(_IN_PLACE)


@dataclass(frozen=True)
class Layer:
    """One operation of a network.

    Args:
        kind: What it does; `RandomNetwork` says what there is.
        reads: The values that it reads, by index: 0 is the input, i is what step i - 1 made.
        size: Output features or channels, where the kind has a choice.
        of: The earlier step whose module is reused, or whose weight is tied.
        groups: Groups of a convolution, or heads.
        stride: Stride of a convolution.
    """

    kind: str
    reads: tuple[int, ...]
    size: int = 0
    of: int = 0
    groups: int = 1
    stride: int = 1

    def __repr__(self) -> str:
        """Leave out what has its default value: failing examples are read by people."""
        choices = {"size": 0, "of": 0, "groups": 1, "stride": 1}
        drawn = [f"{name}={getattr(self, name)}" for name, default in choices.items() if getattr(self, name) != default]
        return f"Layer({', '.join([repr(self.kind), repr(self.reads), *drawn])})"


@dataclass(frozen=True)
class Recipe:
    """A network as data. `RandomNetwork(recipe)` builds it, with the same weights every time."""

    input_shape: Shape
    steps: tuple[Layer, ...]
    seed: int = 0


class RandomNetwork(nn.Module):
    """The network of a recipe. Every value that no step reads goes through a head of its own, and the heads are added.

    Kinds of steps, by what they read:
        any value: an activation, ``dropout``, ``functional-dropout``, ``add``, ``add_`` (in place), ``multiply``,
        ``concat``, ``reuse`` (of the module of an earlier step);
        features: ``linear``, ``functional-linear``, ``tied-linear``, ``layer-norm``, and ``batch-norm`` without tokens;
        tokens: ``attention``, ``attention-dropout`` (functional, inside), ``mean``;
        images: ``conv``, ``transposed-conv``, ``batch-norm``, ``group-norm``, ``pool``, ``tokens``.

    Shapes:
        Input (batch, *recipe.input_shape), output (batch, 3).
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        with preserved_randomness(recipe.seed):
            self.shapes: list[Shape] = [recipe.input_shape]
            self.steps = nn.ModuleList()
            for step in recipe.steps:
                shapes = [self.shapes[index] for index in step.reads]
                self.steps.append(self._build(step, shapes))
                self.shapes.append(output_shape(recipe.steps, step, shapes))
            read = {index for step in recipe.steps for index in step.reads}
            self.ends = [index for index in range(len(self.shapes)) if index not in read]
            self.heads = nn.ModuleList(nn.Linear(channels(self.shapes[index]), CLASSES) for index in self.ends)
        unsettle_norms(self, Draws(recipe.seed))

    def forward(self, x: Tensor) -> Tensor:
        """Take every step, then add up the heads."""
        values = [x]
        for step, module in zip(self.recipe.steps, self.steps, strict=True):
            chosen = self.steps[step.of] if step.kind == "reuse" else module
            values.append(chosen(*(values[index] for index in step.reads)))
        results: list[Tensor] = []
        for index, head in zip(self.ends, self.heads, strict=True):
            spatial = tuple(range(2, 1 + len(self.shapes[index]))) if is_image(self.shapes[index]) else (1,)
            value = values[index] if len(self.shapes[index]) == 1 else values[index].mean(spatial)
            results.append(head(value))
        return torch.stack(results).sum(0)

    def __repr__(self) -> str:
        return f"RandomNetwork({self.recipe!r})"

    def _build(self, step: Layer, shapes: list[Shape]) -> nn.Module:
        width = channels(shapes[0])
        if step.kind in _ACTIVATIONS:
            return _ACTIVATIONS[step.kind]()
        if step.kind in _IN_PLACE:
            return _IN_PLACE[step.kind](inplace=True)
        if step.kind == "tied-linear":
            tied = nn.Linear(width, step.size)
            tied.weight = self.steps[step.of].get_parameter("weight")
            return tied
        if step.kind in ("conv", "transposed-conv"):
            convolution = nn.Conv2d if step.kind == "conv" else nn.ConvTranspose2d
            return convolution(width, step.size, 3, step.stride, padding=1, groups=step.groups)
        builders: dict[str, Callable[[], nn.Module]] = {
            "linear": lambda: nn.Linear(width, step.size),
            "functional-linear": lambda: _FunctionalLinear(width, step.size),
            "layer-norm": lambda: nn.LayerNorm(width),
            "group-norm": lambda: nn.GroupNorm(1, width),
            "batch-norm": lambda: (nn.BatchNorm2d if is_image(shapes[0]) else nn.BatchNorm1d)(width),
            "attention": lambda: _Attention(width, step.groups),
            "attention-dropout": lambda: _Attention(width, step.groups, drop=0.2),
            "dropout": lambda: nn.Dropout(0.3),
            "functional-dropout": FunctionalDropout,
            "pool": lambda: nn.MaxPool2d(2, ceil_mode=True),
        }
        return builders[step.kind]() if step.kind in builders else _Function(step.kind, is_image(shapes[0]))


def output_shape(steps: Sequence[Layer], step: Layer, shapes: list[Shape]) -> Shape:
    """Return the shape of what `step`, which comes after `steps`, makes of values of `shapes`."""
    first = shapes[0]
    if step.kind == "reuse":
        return output_shape(steps, steps[step.of], shapes)
    if step.kind in ("linear", "functional-linear", "tied-linear"):
        return (*first[:-1], step.size)
    if step.kind == "concat":
        width = sum(channels(shape) for shape in shapes)
        return (width, *first[1:]) if is_image(first) else (*first[:-1], width)
    if step.kind == "mean":
        return first[1:]
    if step.kind == "tokens":
        return (first[1] * first[2], first[0])
    if step.kind == "pool":
        return (first[0], *(-(-extent // 2) for extent in first[1:]))
    if step.kind == "conv":
        return (step.size, *(-(-extent // step.stride) for extent in first[1:]))
    if step.kind == "transposed-conv":
        return (step.size, *((extent - 1) * step.stride + 1 for extent in first[1:]))
    return first


def is_image(shape: Shape) -> bool:
    """Say whether a value has height and width."""
    return len(shape) == 3


def channels(shape: Shape) -> int:
    """Return the number of features, or of channels, of a value."""
    return shape[0] if is_image(shape) else shape[-1]


class _Function(nn.Module):
    """An operation without parameters; traced through, so that it becomes functions of torch in the graph."""

    def __init__(self, kind: str, image: bool) -> None:
        super().__init__()
        self.kind, self.channel_dim = kind, 1 if image else -1

    def forward(self, *values: Tensor) -> Tensor:
        x = values[0]
        if self.kind == "add":
            return x + values[1]
        if self.kind == "add_":
            return x.add_(values[1])
        if self.kind == "multiply":
            return x * values[1]
        if self.kind == "concat":
            return torch.cat(values, self.channel_dim)
        return x.mean(1) if self.kind == "mean" else x.flatten(2).transpose(1, 2)


class FunctionalDropout(nn.Module):
    """Dropout that reads the mode itself, as many models have it."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop features in train mode."""
        return F.dropout(x, 0.3, training=self.training)


class _FunctionalLinear(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        linear = nn.Linear(width, out)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, drop: float = 0.0) -> None:
        super().__init__()
        self.heads, self.drop = heads, drop
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        if self.drop:
            mixed = F.dropout(mixed, self.drop, training=self.training)
        return self.proj(mixed)
