"""Leaves whose weights are no plain parameters, and what share of a model lies in what stays whole."""

from collections import defaultdict
from collections.abc import Collection, Iterable

import torch
import torch.fx as fx
from torch import nn
from torch.nn.utils import parametrize

from fxgrow.primitives.modules import parameter_count


def notes_on_weights(graph: fx.Graph, model: nn.Module) -> list[str]:
    """Say, once for each reason, which modules in a graph stay whole since their weights are no plain parameters."""
    paths: dict[str, dict[str, None]] = defaultdict(dict)
    for node in graph.find_nodes(op="call_module"):
        reason = _reason(model.get_submodule(str(node.target)))
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


def _reason(module: nn.Module) -> str | None:
    """Say what is special about the weights of a module; None where nothing is."""
    if isinstance(module, torch.jit.ScriptModule):
        return "compiled by torch.jit"
    if type(module).__module__.startswith("torch.ao."):
        return "quantised"
    how = [*_parametrisations(module), *_hooks(module)]
    return f"weights are computed from others, by {', '.join(dict.fromkeys(how))}" if how else None


def _parametrisations(module: nn.Module) -> list[str]:
    if not parametrize.is_parametrized(module):
        return []
    chains: Iterable[nn.Module] = module.parametrizations.values()  # type: ignore[operator]
    return [type(step).__name__.lstrip("_") for chain in chains for step in chain.children()]


def _hooks(module: nn.Module) -> list[str]:
    """Name the hooks by which weight_norm and spectral_norm of old, and pruning, set a weight before each call."""
    kinds = [type(hook) for hook in module._forward_pre_hooks.values()]
    return [kind.__name__ for kind in kinds if kind.__module__.startswith("torch.nn.utils.")]
