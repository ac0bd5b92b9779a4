"""What is read off a forward and backward pass at one site: its inputs, and the loss's gradients behind it."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.elementwise import ElementwiseRegion
from fxgrow.curvature.matrices import CapturedCall
from fxgrow.curvature.sample_dimension import SampleDimension, samples_in_front
from fxgrow.errors import AnalysisError
from fxgrow.graph.activations import activation_after
from fxgrow.graph.sites import Site, site_input
from fxgrow.primitives.linear_map import LinearMap

_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Reading:
    """A linear map, the values that it reads, and the values behind it by which the loss is differentiated.

    For an eigen-score the map is the site's own; `Reading.of_features` describes a map that a pseudo-layer could have.
    """

    site: Site
    map: LinearMap
    inputs: tuple[fx.Node, ...]  #: one for each call of the site
    differentiated: tuple[fx.Node, ...]  #: one for each call
    regions: tuple[ElementwiseRegion, ...] = ()  #: one for each call; empty for the branch matrix
    rows: slice | None = None  #: the neurons to read; all of them if None
    signs: tuple[int, ...] = ()  #: of the coefficients of each call; all 1 if empty

    @classmethod
    def branch(cls, site: Site) -> "Reading":
        """Read the branch matrix: the site's input, and dL/dO at its output."""
        return cls(site, site.map, tuple(site_input(call) for call in site.calls), site.calls)

    @classmethod
    def splitting(cls, site: Site, regions: tuple[ElementwiseRegion, ...]) -> "Reading":
        """Read the splitting matrix: the site's input, and dL/da h''(O)."""
        return cls(
            site,
            site.map,
            tuple(site_input(call) for call in site.calls),
            tuple(region.exit for region in regions),
            regions,
        )

    @classmethod
    def of_features(cls, graph_module: fx.GraphModule, site: Site) -> "Reading":
        """Read the site's features h, behind its activation if it has one, and dL/dh.

        The map is that of a layer which mixes h at one position and adds to h, as operator ``serial`` does.
        """
        features = tuple(activation_after(graph_module, call) or call for call in site.calls)
        neurons, ones = site.neurons, (1,) * site.map.spatial
        mixing = LinearMap(
            neurons, neurons, neurons, kernel_size=ones, stride=ones, padding=(0,) * site.map.spatial, dilation=ones
        )
        return cls(site, mixing, features, features)

    @property
    def matrix(self) -> Literal["branch", "splitting"]:
        """The name of the matrix whose coefficients are read."""
        return "splitting" if self.regions else "branch"

    @property
    def values(self) -> tuple[fx.Node, ...]:
        """The nodes whose values are needed."""
        return (*self.inputs, *self.site.calls) if self.regions else self.inputs

    def some_rows(self, rows: slice) -> "Reading":
        """Return the reading of some neurons only, of a map without groups."""
        return replace(self, rows=rows, map=replace(self.map, neurons=rows.stop - rows.start))

    def captured(
        self,
        values: Mapping[fx.Node, Tensor],
        gradients: Mapping[fx.Node, Tensor],
        batch: Batch,
        dimensions: Mapping[fx.Node, SampleDimension | None],
    ) -> list[CapturedCall]:
        """Return what each call of the site saw in one batch.

        Args:
            values: Values at the `values` nodes.
            gradients: Gradients of the batch's mean loss at the `differentiated` nodes.
            batch: The batch.
            dimensions: Where the samples lie in the values at `inputs` (`find_sample_dimensions`).

        Raises:
            AnalysisError: If a gradient is not finite.
        """
        calls = [self._call(index, values, gradients, batch, dimensions) for index in range(len(self.site.calls))]
        parts = min(parts for _, _, parts in calls)
        return [CapturedCall(x, c, parts, batch.samples, (batch.index, 0)) for x, c, _ in calls]

    def reached_rows(self, values: Mapping[fx.Node, Tensor], gradients: Mapping[fx.Node, Tensor]) -> Tensor | None:
        """Return which neurons of the site get a gradient in one batch, ``(neurons,)`` of bool.

        That is where dL/dO is not zero at some position: it is zero where nothing reads the output, where it is cut off
        before the loss, and at a neuron that a ReLU has killed. None if this reading is of something else.
        """
        if self.differentiated != self.site.calls and not self.regions:
            return None
        reached = torch.zeros(self.site.neurons, dtype=torch.bool)
        for index, (call, node) in enumerate(zip(self.site.calls, self.differentiated, strict=True)):
            outputs = self._blocks(values[call]) if self.regions else itertools.repeat(None)
            for gradient, output in zip(self._blocks(gradients[node]), outputs, strict=False):
                some = gradient != 0
                if output is not None:
                    some &= self.regions[index].first_derivative(for_solving(output)) != 0
                reached |= some.movedim(self.site.map.channel_dim, 0).flatten(1).any(1).cpu()
                if bool(reached.all()):  # mostly so after the first samples
                    return reached
        return reached

    def _blocks(self, value: Tensor) -> tuple[Tensor, ...]:
        """Divide a value behind the site into a few samples at a time; one without samples in front stays whole."""
        return _split(value) if value.ndim > 1 + self.site.map.spatial else (value,)

    def _call(
        self,
        index: int,
        values: Mapping[fx.Node, Tensor],
        gradients: Mapping[fx.Node, Tensor],
        batch: Batch,
        dimensions: Mapping[fx.Node, SampleDimension | None],
    ) -> tuple[Tensor, Tensor, int]:
        """Return input and coefficients of one call, and into how many parts of whole samples they divide."""
        scale = batch.samples * (self.signs[index] if self.signs else 1)  # of the sum of the losses
        coefficients = for_solving(gradients[self.differentiated[index]]) * scale
        if not torch.isfinite(coefficients.sum()):
            what = f"its gradient is not finite in batch {batch.index}, though the loss is"
            raise AnalysisError(what, where=self.site.path, fix="score it in float32, or an earlier state of it")
        if self.regions:
            outputs = for_solving(values[self.site.calls[index]])
            coefficients *= _in_blocks(self.regions[index].second_derivative, outputs)
        dimension = dimensions[self.inputs[index]]
        x, parts = samples_in_front(for_solving(values[self.inputs[index]]), dimension, batch.samples, self.map.spatial)
        c, _ = samples_in_front(coefficients, dimension, batch.samples, self.map.spatial)
        if self.rows is not None:
            dim = self.map.channel_dim
            c = c.movedim(dim, 0)[self.rows].movedim(0, dim).clone()
        return x, c, parts


def for_solving(value: Tensor) -> Tensor:
    """Return a captured value apart from autograd, in float32 if it has less."""
    value = value.detach()
    return value if value.dtype == torch.float64 else value.float()


def _in_blocks(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """Apply an elementwise function to a few samples at a time: differentiating takes several copies of its input."""
    return function(value) if value.ndim < 2 else torch.cat([function(block) for block in _split(value)])


def _split(value: Tensor) -> tuple[Tensor, ...]:
    return torch.split(value, max(1, _BLOCK // max(1, value[0].numel())))
