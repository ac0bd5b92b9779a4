"""What grew in a model, by the paths of the pseudo-layers."""

from dataclasses import dataclass

import torch.fx as fx

from fxgrow.files.describing import describe
from fxgrow.inspection.outline import pseudo_layer_operators, pseudo_layer_sites


@dataclass(frozen=True)
class Grown:
    """One pseudo-layer."""

    path: str
    site: str
    operator: str


def grown_at(graph_module: fx.GraphModule) -> list[Grown]:
    """Return the pseudo-layers of a model."""
    table = describe(graph_module)
    operators = pseudo_layer_operators(table)
    return [Grown(path, site, operators.get(path, "")) for path, site in pseudo_layer_sites(table).items()]
