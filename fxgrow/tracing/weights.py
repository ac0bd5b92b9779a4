"""Leaves whose weights are no plain parameters, and what share of a model lies in what stays whole."""

from collections import defaultdict
from collections.abc import Collection, Iterable

import torch.fx as fx
from torch import nn

from fxgrow.graph.wholes import computed_weights
from fxgrow.primitives.modules import parameter_count


def notes_on_weights(graph: fx.Graph, model: nn.Module) -> list[str]:
    """Say, once for each reason, which modules in a graph stay whole since their weights are no plain parameters."""
    paths: dict[str, dict[str, None]] = defaultdict(dict)
    for node in graph.find_nodes(op="call_module"):
        reason = computed_weights(model.get_submodule(str(node.target)))
        if reason is not None:
            paths[reason][str(node.target)] = None
    return [f"{_named(found)} whole{spelled_share(found, model)}: {reason}" for reason, found in paths.items()]


def spelled_share(paths: Iterable[str], model: nn.Module) -> str:
    """Say what share of a model's parameters the modules at `paths` have; nothing where they have none."""
    share = sum(parameter_count(model.get_submodule(path)) for path in paths) / max(parameter_count(model), 1)
    return f", with {share:.1%} of the parameters" if share else ""


def _named(paths: Collection[str]) -> str:
    first = next(iter(paths))
    return f"{first} stays" if len(paths) == 1 else f"{first} and {len(paths) - 1} more stay"
