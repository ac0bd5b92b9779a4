"""A probe: the model, the loss, the data and the sites of one analysis."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch.fx as fx

from fxgrow.curvature.batches import Batch
from fxgrow.curvature.capture import ForwardPass, LossFunction, forward_pass
from fxgrow.curvature.places import Place, find_places
from fxgrow.graph.sites import Site


@dataclass(frozen=True, eq=False)
class Probe:
    """What a score is measured on, and within which bounds."""

    graph_module: fx.GraphModule
    loss_fn: LossFunction
    batches: tuple[Batch, ...]
    sites: Mapping[str, Site]  #: the sites to score, by module path
    iterations: int
    seed: int
    settled: float | None  #: stop Lanczos when the rank correlation with two iterations before reaches this
    max_memory: int  #: bytes that captured tensors and solvers may take, beside a training step's own memory
    _places: dict[fx.Node, Place | None] = field(default_factory=dict, init=False)

    @property
    def images(self) -> int:
        """The number of images of probe data, N."""
        return sum(batch.images for batch in self.batches)

    def forward(
        self, batch: Batch, *, values: Iterable[fx.Node] = (), differentiable: Iterable[fx.Node] = ()
    ) -> AbstractContextManager[ForwardPass]:
        """Run `batch` and record the values at some nodes (`fxgrow.curvature.capture.forward_pass`).

        A batch sees the same dropout masks however often it is run.
        """
        return forward_pass(
            self.graph_module,
            self.loss_fn,
            batch,
            values=values,
            differentiable=differentiable,
            seed=self.seed + batch.index,
        )

    def places(self, nodes: Iterable[fx.Node]) -> Mapping[fx.Node, Place | None]:
        """Return where the images lie in the values at some nodes, at least (`fxgrow.curvature.places.find_places`)."""
        unknown = [node for node in nodes if node not in self._places]
        if unknown:
            self._places.update(find_places(self.graph_module, unknown, self.batches[0]))
        return self._places
