"""The site that a value or a parameter hangs on: the nearest one above it in the graph, or else below."""

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable

import torch.fx as fx

from fxgrow.graph.sites import Site, find_sites
from fxgrow.record.provenance import part_of


def nearest_site(graph_module: fx.GraphModule, value: fx.Node) -> Site | None:
    """Return the first site met on the way up from `value`, its own call included; None where there is none."""
    return _first_site(_sites_by_call(find_sites(graph_module).values()), [value], lambda node: node.all_input_nodes)


def find_hosts(graph_module: fx.GraphModule, names: Collection[str]) -> dict[str, Site]:
    """Return the sites on which new parameters hang, by the parameter's name; those that hang on none are left out.

    A parameter of a pseudo-layer hangs on the site that the pseudo-layer grew at. Any other hangs on the first site
    that its readers are or meet on the way up, or else on the way down. Sites whose own weight is new do not count.

    Args:
        graph_module: The graph.
        names: Names of the parameters.
    """
    known = {path: site for path, site in find_sites(graph_module).items() if site.weight not in names}
    by_call, by_target = _sites_by_call(known.values()), _nodes_by_target(graph_module)
    hosts = {}
    for name in names:
        readers = [node for path in _prefixes(name) for node in by_target.get(path, ())]
        marked = [known[site] for site in map(_marked_site, readers) if site in known]
        host = (
            next(iter(marked), None)
            or _first_site(by_call, readers, lambda node: node.all_input_nodes)
            or _first_site(by_call, readers, lambda node: list(node.users))
        )
        if host is not None:
            hosts[name] = host
    return hosts


def _sites_by_call(sites: Iterable[Site]) -> dict[fx.Node, Site]:
    return {call: site for site in sites for call in site.calls}


def _nodes_by_target(graph_module: fx.GraphModule) -> dict[str, list[fx.Node]]:
    found: dict[str, list[fx.Node]] = defaultdict(list)
    for node in graph_module.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            found[str(node.target)].append(node)
    return found


def _prefixes(name: str) -> list[str]:
    """Return the paths of a parameter and of the modules that hold it, the longest first."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _marked_site(node: fx.Node) -> str:
    part = part_of(node)
    return part.site if part else ""


def _first_site(
    by_call: dict[fx.Node, Site], starts: Iterable[fx.Node], neighbours: Callable[[fx.Node], list[fx.Node]]
) -> Site | None:
    pending = deque(starts)
    seen = set(pending)
    while pending:
        node = pending.popleft()
        if node in by_call:
            return by_call[node]
        for other in neighbours(node):
            if other not in seen:
                seen.add(other)
                pending.append(other)
    return None
