"""What a module has to say when its state dict is read or written, on the container that takes its place in a graph."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch.fx as fx
from torch import nn

from fxgrow.primitives.modules import clone_module

_HOOKS = ("_state_dict_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
_METHODS = ("_save_to_state_dict", "_load_from_state_dict")


def adopt_state_hooks(module: nn.Module, container: nn.Module) -> None:
    """Let `container` read and write its state as `module` does, as where old checkpoints have other names.

    Hooks are taken over. A class that overrides how it is loaded does so on a shadow of the module, which has the
    tensors and children of the container.
    """
    for name in _HOOKS:
        hooks = {key: _bound_to(container, hook) for key, hook in getattr(module, name).items()}
        getattr(container, name).update(hooks)
    for name in _METHODS:
        own = vars(module).get(name)
        overridden = getattr(type(module), name) is not getattr(nn.Module, name)
        # what a graph's class overrides is fxgrow's, and the container's class has it too
        if own is not None or (overridden and not isinstance(module, fx.GraphModule)):
            setattr(container, name, getattr(_shadow(getattr(own, "__self__", module), container), name))
    if module._version != container._version:
        container._version = module._version


def _bound_to(container: nn.Module, hook: Any) -> Any:
    """Return a hook that is called with `container` where it was called with its module."""
    return type(hook)(hook.hook, container) if getattr(hook, "with_module", False) else hook


class _Children(Mapping[str, nn.Module | None]):
    """The children of a container as they are now; a container among them is what it was in the model, say a list."""

    def __init__(self, children: Mapping[str, nn.Module | None], shadows: Mapping[str, nn.Module]) -> None:
        self._children, self._shadows = children, shadows

    def __getitem__(self, name: str) -> nn.Module | None:
        child = self._children[name]
        return self._shadows.get(name, child) if type(child) is nn.Module else child

    def __iter__(self) -> Iterator[str]:
        return iter(self._children)

    def __len__(self) -> int:
        return len(self._children)


def _shadow(module: nn.Module, container: nn.Module) -> nn.Module:
    shadow = clone_module(module)
    for registry in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
        setattr(shadow, registry, getattr(container, registry))
    within = {name: child for name, child in container._modules.items() if type(child) is nn.Module}
    lists = {name: child for name, child in module._modules.items() if child is not None and name in within}
    shadows = {name: _shadow(child, within[name]) for name, child in lists.items()}
    vars(shadow)["_modules"] = _Children(container._modules, shadows)
    return shadow
