"""How the curvature matrices of a site are read off a forward and backward pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.capture import ForwardPass
from fxgrow.curvature.elementwise import ElementwiseRegion
from fxgrow.curvature.matrices import Piece
from fxgrow.errors import AnalysisError
from fxgrow.graph.linear_map import LinearMap
from fxgrow.graph.sites import Site, site_input

_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Reading:
    """How the coefficients of a site's matrices are read: at its output, or through the activation behind it."""

    site: Site
    regions: tuple[ElementwiseRegion, ...] = ()  #: one for each call; empty for the branch matrix
    rows: slice | None = None  #: the neurons to read; all of them if None

    @property
    def matrix(self) -> str:
        """The name of the matrix, ``"branch"`` or ``"splitting"``."""
        return "splitting" if self.regions else "branch"

    @property
    def map(self) -> LinearMap:
        """The linear map of the neurons that are read."""
        if self.rows is None:
            return self.site.map
        return replace(self.site.map, neurons=len(range(*self.rows.indices(self.site.neurons))))

    @property
    def values(self) -> list[fx.Node]:
        """The nodes whose values are needed."""
        return [site_input(call) for call in self.site.calls] + (list(self.site.calls) if self.regions else [])

    @property
    def differentiable(self) -> list[fx.Node]:
        """The nodes by whose values the loss is differentiated, one for each call."""
        return [region.exit for region in self.regions] or list(self.site.calls)

    def pieces(self, run: ForwardPass, gradients: Mapping[fx.Node, Tensor], batch: Batch) -> list[Piece]:
        """Return what each call of the site saw in one batch.

        Raises:
            AnalysisError: If a gradient is not finite.
        """
        parts = [self._part(index, run, gradients, batch) for index in range(len(self.site.calls))]
        units = min(units for _, _, units in parts)
        return [Piece(x, c, units, batch.images, (batch.index, 0)) for x, c, _ in parts]

    def _part(
        self, index: int, run: ForwardPass, gradients: Mapping[fx.Node, Tensor], batch: Batch
    ) -> tuple[Tensor, Tensor, int]:
        """Return input and coefficients of one call, and into how many parts of whole images they divide."""
        call = self.site.calls[index]
        coefficients = for_solving(gradients[self.differentiable[index]]) * batch.images  # of the sum of the losses
        if not torch.isfinite(coefficients.sum()):
            what = f"its gradient is not finite in batch {batch.index}, though the loss is"
            raise AnalysisError(what, where=self.site.path, fix="score it in float32, or an earlier state of it")
        if self.regions:
            coefficients *= _in_blocks(self.regions[index].second_derivative, for_solving(run.values[call]))
        spatial = self.map.spatial
        x, units = images_in_front(for_solving(run.values[site_input(call)]), batch.images, spatial)
        c, _ = images_in_front(coefficients, batch.images, spatial)
        if self.rows is not None:
            dim = self.map.channel_dim
            c = c.movedim(dim, 0)[self.rows].movedim(0, dim).clone()
        return x, c, units


def for_solving(value: Tensor) -> Tensor:
    """Return a captured value apart from autograd, in float32 if it has less."""
    value = value.detach()
    return value if value.dtype == torch.float64 else value.float()


def images_in_front(value: Tensor, images: int, spatial: int) -> tuple[Tensor, int]:
    """Bring the images of a site's input or output to the leading dimension, and say into how many parts it divides.

    A leading dimension that is a multiple of the images (windows of an image, say) holds them in order, one image's
    rows together. Where another dimension has exactly as many entries, as in (time, batch, features), that one is
    brought forward. Otherwise nothing is known, and the whole is one part.
    """
    if value.ndim < 2 + spatial:
        value = value.unsqueeze(0)
    if value.shape[0] % images == 0:
        return value, images
    for dim in range(1, value.ndim - 1 - spatial):
        if value.shape[dim] == images:
            return value.movedim(dim, 0), images
    return value, 1


def _in_blocks(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """Apply an elementwise function to a few images at a time: differentiating it takes several copies of its input."""
    if value.ndim < 2:
        return function(value)
    step = max(1, _BLOCK // max(1, value[0].numel()))
    return torch.cat([function(block) for block in torch.split(value, step)])
