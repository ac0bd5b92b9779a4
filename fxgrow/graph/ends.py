"""The ends of a model: the sites that lie at its input and at its output."""

from collections.abc import Mapping

import torch.fx as fx

from fxgrow.graph.sites import Site


def inner_sites(graph_module: fx.GraphModule, sites: Mapping[str, Site]) -> Mapping[str, Site]:
    """Return the sites but the *stem* (a convolution of the raw input) and the *head* (no other site comes behind it).

    Where nothing else is left, as in a model of one layer, they are all returned.
    """
    calls = {call for site in sites.values() for call in site.calls}
    behind: dict[fx.Node, bool] = {}  # whether a site lies upstream of the node
    for node in graph_module.graph.nodes:
        behind[node] = any(behind[source] or source in calls for source in node.all_input_nodes)
    before: dict[fx.Node, bool] = {}  # whether a site lies downstream of the node
    for node in reversed(graph_module.graph.nodes):
        before[node] = any(before[user] or user in calls for user in node.users)
    inner = {
        path: site
        for path, site in sites.items()
        if any(before[call] for call in site.calls) and (not site.map.spatial or any(behind[c] for c in site.calls))
    }
    return inner or sites
