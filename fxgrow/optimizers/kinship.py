"""The default lineage of new parameters: no moments, and the group of the site that they hang on."""

from collections.abc import Collection

import torch.fx as fx

from fxgrow.graph.hosts import find_hosts
from fxgrow.graph.sites import Site
from fxgrow.record.lineage import Lineage


def kin(graph_module: fx.GraphModule, names: Collection[str]) -> dict[str, Lineage]:
    """Return lineages for new parameters by what they hang on (`fxgrow.graph.hosts.find_hosts`).

    Matrices join the group of the site's weight. Vectors (biases, scales) join that of the site's bias where there is
    one, so that a recipe without weight decay on biases stays one.
    """
    hosts = find_hosts(graph_module, names)
    return {name: kin_of(site, vector=graph_module.get_parameter(name).dim() < 2) for name, site in hosts.items()}


def kin_of(site: Site, *, vector: bool) -> Lineage:
    """Return the lineage of a new parameter that hangs on a site."""
    return Lineage((site.bias, site.weight) if vector and site.bias else (site.weight,))


def added_parameters(before: fx.GraphModule, after: fx.GraphModule) -> tuple[str, ...]:
    """Return the names of the parameters of `after` that are not those of `before`, whatever those are called."""
    known = {id(parameter) for parameter in before.parameters()}
    return tuple(name for name, parameter in after.named_parameters() if id(parameter) not in known)
