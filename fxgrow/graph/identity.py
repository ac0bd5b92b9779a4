"""Identity: a traced model that stays the same object while its inside is replaced.

Whoever holds the object (an optimizer, DDP, a trainer) goes on with it: parameters that stay are the same objects, in
the same dictionaries, and so are the containers on the way to them. What the inside is must travel with the weights,
or a checkpoint would not fit a fresh process: `attach_state` lets a state dict say it, and hear it before the weights
are loaded.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.fx as fx
from torch import Tensor, nn

from fxgrow.graph.sharing import share

#: Says in a tensor what a module is at the moment; None where there is nothing to say.
Write = Callable[[Any], Tensor | None]
#: Makes a module what a tensor says.
Read = Callable[[Any, Tensor], None]


def become(graph_module: fx.GraphModule, rewritten: fx.GraphModule) -> None:
    """Let `graph_module` take over the graph, the modules, the parameters and the record of `rewritten`.

    Modes stay as they are in what both have, as do hooks. `rewritten` is used up: its graph has a new owner.
    """
    _adopt(graph_module, rewritten)
    graph_module.meta = rewritten.meta
    graph_module.graph = rewritten.graph  # recompiles, once


@contextmanager
def same_on_failure(*graph_modules: fx.GraphModule) -> Iterator[None]:
    """Let graphs become what they were if the block fails, whatever it raises; the graph is the same object again."""
    before = [(graph_module, share(graph_module), graph_module.graph) for graph_module in graph_modules]
    try:
        yield
    except BaseException:
        for graph_module, shared, graph in before:
            become(graph_module, shared)
            graph_module.graph = graph  # its nodes are known to whoever runs it
        raise


def attach_state(module: nn.Module, key: str, write: Write, read: Read) -> None:
    """Let the state dict of `module` carry one more entry, which is read before anything else is loaded.

    A state dict without the entry is loaded as ever, also with ``strict=True``.

    Args:
        module: Any module; copies of it carry the entry too.
        key: The name of the entry, behind the module's own prefix.
        write: Called with the module; a function of a Python module, so that the module can be pickled.
        read: Called with the module and what `write` gave, between two steps.
    """
    module.register_state_dict_post_hook(functools.partial(_write, key, write))  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(functools.partial(_read, key, read))  # type: ignore[no-untyped-call]


def _adopt(known: nn.Module, made: nn.Module) -> None:
    """Fill the registries of `known`, which stay the same dictionaries, with what `made` holds."""
    children = dict(made._modules)
    for name, child in children.items():
        own = known._modules.get(name)
        if own is not child and type(own) is nn.Module and type(child) is nn.Module:  # containers, made by torch.fx
            _adopt(own, child)
            children[name] = own
    for registry, values in (
        (known._modules, children),
        (known._parameters, dict(made._parameters)),
        (known._buffers, dict(made._buffers)),
    ):
        registry.clear()
        registry.update(values)  # type: ignore[arg-type]
    passing = set(made._non_persistent_buffers_set)
    known._non_persistent_buffers_set.clear()
    known._non_persistent_buffers_set.update(passing)


def _write(key: str, write: Write, module: nn.Module, state: dict[str, Any], prefix: str, _: object) -> None:
    said = write(module)
    if said is not None:
        state[prefix + key] = said


def _read(key: str, read: Read, module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    said = state.pop(prefix + key, None)
    if said is not None:
        read(module, said)
