"""Which sites an analysis looks at, and why it looks at no others."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch.fx as fx

from fxgrow.errors import AnalysisError
from fxgrow.graph.selection import matches, select
from fxgrow.graph.sites import Site, find_sites
from fxgrow.graph.wholes import find_wholes


@dataclass(frozen=True)
class Selection:
    """The sites that were asked for."""

    sites: Mapping[str, Site]  #: by module path, those that cannot grow among them
    wholes: Mapping[str, str]  #: what stays whole (`find_wholes`)

    @property
    def growable(self) -> dict[str, Site]:
        """The sites that can grow."""
        return {path: site for path, site in self.sites.items() if site.refusal is None}

    @property
    def refusals(self) -> dict[str, str]:
        """Why nothing can grow elsewhere."""
        refused = {path: site.refusal for path, site in self.sites.items() if site.refusal is not None}
        return {**refused, **self.wholes}


def select_sites(graph_module: fx.GraphModule, patterns: Iterable[str] | None) -> Selection:
    """Return the sites whose module paths match one of the patterns; all of them without patterns.

    Raises:
        AnalysisError: If there is no site, or a pattern matches none.
    """
    sites, wholes = find_sites(graph_module), find_wholes(graph_module)
    if not sites:
        reasons = "".join(f"; {path}: {reason}" for path, reason in list(wholes.items())[:3])
        what = f"it has no linear map with a weight of its own{reasons}"
        fix = "see with `fxgrow inspect` what stays whole; prune.remove and remove_parametrizations make weights plain"
        raise AnalysisError(what, where="the traced model", fix=fix)
    if patterns is None:
        return Selection(sites, wholes)
    patterns = [patterns] if isinstance(patterns, str) else patterns
    patterns = list(patterns) if isinstance(patterns, Iterable) else [patterns]
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise AnalysisError(
            "they are no module paths", where=f"sites {patterns}", fix="give a list of strings, or None"
        )
    chosen = select(sites, patterns, AnalysisError, wholes)
    return Selection(chosen, {path: reason for path, reason in wholes.items() if matches(path, patterns)})
