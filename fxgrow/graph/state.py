"""Names, order and persistence of parameters and buffers: what makes a state_dict interchangeable with the model's."""

import torch.fx as fx
from torch import nn

from fxgrow.graph.state_hooks import adopt_state_hooks
from fxgrow.primitives.modules import find_submodule


def adopt_state(source: nn.Module, graph_module: fx.GraphModule) -> None:
    """Give `graph_module`, which was made from `source`, the same parameter and buffer names in the same order.

    torch.fx copies what the graph references, in the graph's order, makes every buffer persistent, and knows a module
    that lies at two paths by one of them. What the graph does not reference is attached too, so that a state_dict of
    one loads strictly into the other; so are the hooks by which a module takes checkpoints with other names.
    """
    counterparts: dict[nn.Module, nn.Module] = {}
    for path, module in source.named_modules(remove_duplicate=False):
        counterpart = _counterpart(graph_module, path, module, counterparts)
        if counterpart is not None:
            counterparts.setdefault(module, counterpart)
            if counterpart is not module:
                _adopt_tensors(module, counterpart)
                adopt_state_hooks(module, counterpart)
    keep_state_order(source, graph_module)


def keep_state_order(source: nn.Module, graph_module: fx.GraphModule) -> None:
    """Order the modules, parameters and buffers of `graph_module` as in `source`, new ones last.

    Which buffers are persistent, and the containers' train/eval mode, are kept too.
    """
    for path, container in graph_module.named_modules():
        model = find_submodule(source, path)
        if model is None or model is container:
            continue
        for registry in ("_modules", "_parameters", "_buffers"):
            _order(getattr(container, registry), list(getattr(model, registry)))
        container.training = model.training
        persistent = set(model._buffers) - model._non_persistent_buffers_set
        constants = {name for name in container._buffers if name not in model._buffers}
        container._non_persistent_buffers_set |= (set(model._buffers) - persistent) | constants


def _counterpart(
    graph_module: fx.GraphModule, path: str, module: nn.Module, known: dict[nn.Module, nn.Module]
) -> nn.Module | None:
    found = find_submodule(graph_module, path)
    if found is not None:
        return found
    parent_path, _, name = path.rpartition(".")
    parent = find_submodule(graph_module, parent_path)
    if parent is None or not module.state_dict():
        return None
    counterpart = known.get(module, module)
    parent.add_module(name, counterpart)
    return counterpart


def _adopt_tensors(module: nn.Module, counterpart: nn.Module) -> None:
    for name, parameter in module._parameters.items():
        counterpart._parameters.setdefault(name, parameter)
    for name, buffer in module._buffers.items():
        counterpart._buffers.setdefault(name, buffer)


def _order(registry: dict[str, object], names: list[str]) -> None:
    ordered = {name: registry[name] for name in [*(n for n in names if n in registry), *registry]}
    registry.clear()
    registry.update(ordered)
