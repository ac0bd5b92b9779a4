"""Which sites may grow: those with scores, without a refusal, inside the model and not at its ends."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch.fx as fx

from fxgrow.errors import PlanError
from fxgrow.graph.ends import inner_sites
from fxgrow.graph.selection import select
from fxgrow.graph.sites import Site, find_sites
from fxgrow.graph.wholes import find_wholes
from fxgrow.record.provenance import PseudoLayerNode, part_of


def eligible_sites(
    graph_module: fx.GraphModule,
    scored: Iterable[str],
    refusals: Mapping[str, str] = MappingProxyType({}),
    *,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    nest: bool = False,
) -> dict[str, Site]:
    """Return the sites that may grow, by module path.

    By default these are all scored sites but the *stem* (a convolution of the model's raw input, as the patch embedding
    of a vision transformer) and the *head* (a site from whose output no other site is reached): the paper never grows
    those. Where nothing else is left, as in a model of one layer, they may grow too. Sites inside pseudo-layers take
    part if `nest` is set: operators that read a site's input add depth only there, while `serial` stacks at the site.

    Args:
        graph_module: The graph that is to grow.
        scored: The sites that have scores.
        refusals: Sites that have none, and why.
        include: Module paths or shell patterns (``"blocks.*.mlp.*"``); if given, only these grow, stem and head too.
        exclude: Module paths or shell patterns that never grow.
        nest: Whether sites inside pseudo-layers are among the default.

    Raises:
        PlanError: If a pattern matches no site, or a site that was asked for cannot grow.
    """
    sites = find_sites(graph_module)
    included = select(sites, include, PlanError, find_wholes(graph_module))
    excluded = select(sites, exclude, PlanError)
    scored = set(scored)
    wanted: Mapping[str, Site] = included
    if include:
        for path, site in wanted.items():
            _check_wanted(site, path, include, scored, refusals)
    else:
        wanted = inner_sites(graph_module, sites)
        if not nest:
            wanted = {path: site for path, site in wanted.items() if not _inside_a_pseudo_layer(site)}
    return {
        path: site for path, site in wanted.items() if path in scored and site.refusal is None and path not in excluded
    }


def _inside_a_pseudo_layer(site: Site) -> bool:
    return any(isinstance(part_of(call), PseudoLayerNode) for call in site.calls)


def _check_wanted(
    site: Site, path: str, include: tuple[str, ...], scored: set[str], refusals: Mapping[str, str]
) -> None:
    """Refuse a site that was asked for by its full name and cannot grow."""
    if path not in include:
        return
    if site.refusal is not None:
        raise PlanError(f"it cannot grow: {site.refusal}", where=path, fix="leave it out of include")
    if path not in scored:
        if path in refusals:
            raise PlanError(f"it has no score: {refusals[path]}", where=path, fix="leave it out of include")
        raise PlanError("it has no score", where=path, fix="analyze it first, or leave it out of include")
