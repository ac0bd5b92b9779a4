"""The linear map of a site, apart from its weights: how rows of a weight act on an input."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class LinearMap:
    """A matrix product or a convolution, described by everything but its weights.

    One *row* is what one neuron reads its input with: a vector of `features` numbers. `rows` is always
    ``(neurons, features)``, whatever layout torch keeps the weight in.
    """

    neurons: int
    features: int  #: numbers in one row: for a convolution, input channels per group x kernel size
    in_channels: int
    kernel_size: tuple[int, ...] = ()  #: empty for a matrix product
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    #: a transposed convolution, or a matrix product whose weight is kept as (features, neurons)
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    padding_mode: str = "zeros"
    #: symmetric padding as F.pad wants it, for padding modes other than zeros
    pad: tuple[int, ...] = ()

    @property
    def spatial(self) -> int:
        """The number of spatial dimensions: 0 for a matrix product, 2 for Conv2d."""
        return len(self.kernel_size)

    @property
    def channel_dim(self) -> int:
        """The dimension of inputs and outputs that holds the channels, counted from the end."""
        return -1 - self.spatial

    @property
    def smallest_input(self) -> tuple[int, ...]:
        """A spatial extent that the map surely accepts: the reach of its kernel."""
        dilation = self.dilation or (1,) * self.spatial
        return tuple(step * (size - 1) + 1 for step, size in zip(dilation, self.kernel_size, strict=True))

    def __call__(self, x: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply `rows` (neurons, features), and a bias (neurons,) if given, to the site's input."""
        if not self.spatial:
            return F.linear(x, rows, bias)
        weight = self.to_weight(rows)
        if self.transposed:
            return _TRANSPOSED[self.spatial](
                x,
                weight,
                bias,
                self.stride,
                self.padding,  # type: ignore[arg-type]  # never a string in a transposed convolution
                self.output_padding,
                self.groups,
                self.dilation,
            )
        if self.padding_mode != "zeros":
            x = F.pad(x, self.pad, mode=self.padding_mode)
            return _CONVOLUTIONS[self.spatial](x, weight, bias, self.stride, 0, self.dilation, self.groups)
        return _CONVOLUTIONS[self.spatial](x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def to_rows(self, weight: Tensor) -> Tensor:
        """Bring a weight in torch's layout to rows ``(neurons, features)``."""
        if not self.transposed:
            return weight.reshape(self.neurons, self.features)
        if not self.spatial:
            return weight.t()
        per_group = weight.reshape(self.groups, self.in_channels // self.groups, -1, *self.kernel_size)
        return per_group.transpose(1, 2).reshape(self.neurons, self.features)

    def to_weight(self, rows: Tensor) -> Tensor:
        """Bring rows ``(neurons, features)`` to torch's layout of the weight."""
        fan_in = self.in_channels // self.groups
        if not self.transposed:
            return rows.reshape(self.neurons, fan_in, *self.kernel_size)
        if not self.spatial:
            return rows.t()
        per_group = rows.reshape(self.groups, self.neurons // self.groups, fan_in, *self.kernel_size)
        return per_group.transpose(1, 2).reshape(self.in_channels, -1, *self.kernel_size)

    @classmethod
    def of_module(cls, module: nn.Module) -> "LinearMap":
        """Describe an ``nn.Linear`` or an ``nn.ConvNd`` / ``nn.ConvTransposeNd``."""
        if isinstance(module, nn.Linear):
            return cls(module.out_features, module.in_features, module.in_features)
        if not isinstance(module, nn.modules.conv._ConvNd):
            raise TypeError(f"{type(module).__name__} is neither a Linear nor a convolution")
        return cls.of_convolution(
            module.weight,
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            groups=module.groups,
            transposed=module.transposed,
            output_padding=module.output_padding,
            padding_mode=module.padding_mode,
            pad=tuple(module._reversed_padding_repeated_twice),
        )

    @classmethod
    def of_convolution(
        cls,
        weight: Tensor,
        *,
        stride: tuple[int, ...],
        padding: tuple[int, ...] | str,
        dilation: tuple[int, ...],
        groups: int = 1,
        transposed: bool = False,
        output_padding: tuple[int, ...] = (),
        padding_mode: str = "zeros",
        pad: tuple[int, ...] = (),
    ) -> "LinearMap":
        """Describe a convolution from its weight and its options, tuples of one number per spatial dimension."""
        in_channels = weight.shape[0] if transposed else weight.shape[1] * groups
        neurons = weight.shape[1] * groups if transposed else weight.shape[0]
        return cls(
            neurons=neurons,
            features=weight.numel() // neurons,
            in_channels=in_channels,
            kernel_size=tuple(weight.shape[2:]),
            stride=tuple(stride),
            padding=padding if isinstance(padding, str) else tuple(padding),
            dilation=tuple(dilation),
            groups=groups,
            transposed=transposed,
            output_padding=tuple(output_padding),
            padding_mode=padding_mode,
            pad=pad,
        )

    def input_channels_of(self, rows: tuple[int, ...]) -> list[int]:
        """Return the input channels that each of `rows` reads, one row after the other."""
        fan_in, per_group = self.in_channels // self.groups, self.neurons // self.groups
        return [row // per_group * fan_in + offset for row in rows for offset in range(fan_in)]

    def build(self, neurons: int, *, weight: Tensor, bias: bool = True, gathered: bool = False) -> nn.Module:
        """Build a module of `neurons` rows that maps the site's input as the site does, its weights not yet set.

        Args:
            neurons: Rows of the new module.
            weight: A tensor with the dtype and on the device that the new parameters shall have.
            bias: Whether the new module has a bias.
            gathered: For a grouped map: whether the input was gathered by `input_channels_of`, so that each row
                reads channels of its own.
        """
        factory = {"bias": bias, "dtype": weight.dtype, "device": weight.device}
        if not self.spatial:
            return _uninitialised(nn.Linear, self.features, neurons, **factory)
        in_channels = neurons * self.in_channels // self.groups if gathered else self.in_channels
        kind = getattr(nn, f"Conv{'Transpose' if self.transposed else ''}{self.spatial}d")
        options = {"output_padding": self.output_padding} if self.transposed else {}
        return _uninitialised(
            kind,
            in_channels,
            neurons,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=neurons if gathered else self.groups,
            padding_mode=self.padding_mode,
            **options,
            **factory,
        )


def _uninitialised(kind: type[nn.Module], *args: Any, **options: Any) -> nn.Module:
    """Build a module without drawing from the global random state; every parameter must be set afterwards."""
    return nn.utils.skip_init(kind, *args, **options)  # type: ignore[no-untyped-call]


def pointwise(channels: int, neurons: int, spatial: int, *, weight: Tensor, bias: bool = True) -> nn.Module:
    """Build a map that mixes channels at each position: Linear, or a convolution of kernel size 1."""
    factory = {"bias": bias, "dtype": weight.dtype, "device": weight.device}
    if not spatial:
        return _uninitialised(nn.Linear, channels, neurons, **factory)
    return _uninitialised(getattr(nn, f"Conv{spatial}d"), channels, neurons, 1, **factory)
