"""What an operation may do besides returning a value: draw random numbers, write to a value, move statistics."""

from collections.abc import Iterable

import torch.fx as fx

from fxgrow.graph.inplace import mutated_value
from fxgrow.primitives.modules import qualified_name

#: parts of the names of operations that draw random numbers, without underscores
_RANDOM = ("bernoulli", "binomial", "cauchy", "dropout", "dotproductattention", "exponential", "fractionalmaxpool",
           "geometric", "gumbel", "multiheadattention", "multinomial", "normal", "poisson", "rand", "rrelu",
           "stochasticdepth")  # fmt: skip
#: parts of the names of operations that move statistics
_STATISTICS = ("batchnorm", "embedding", "instancenorm")
_PURE_HOMES = ("torch.", "_operator.", "math.")


def has_effect(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether `node` may do anything but return a value; in doubt it may."""
    if node.op == "call_module":
        return _module_has_effect(graph_module, node)
    if node.op not in ("call_function", "call_method"):
        return True
    if node.is_impure() or mutated_value(graph_module, node) is not None or not node.all_input_nodes:
        return True
    if node.op == "call_method":
        return _named_for(str(node.target), _RANDOM + _STATISTICS)
    name = qualified_name(node.target)
    return node.target is not getattr and (
        not name.startswith(_PURE_HOMES) or _named_for(name, _RANDOM + _STATISTICS)
    )  # fmt: skip


def may_draw(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether `node` may draw from the global random state, in train mode at least; in doubt it may."""
    if node.op == "call_module":
        kind = type(graph_module.get_submodule(str(node.target)))
        return not kind.__module__.startswith("torch.nn.modules.") or _draws_by_name(kind.__name__)
    if node.op == "call_method":
        return _draws_by_name(str(node.target))
    if node.op != "call_function":
        return False
    name = qualified_name(node.target)
    return _draws_by_name(name) or not name.startswith((*_PURE_HOMES, "builtins.", "fxgrow."))


def may_swap(graph_module: fx.GraphModule, one: Iterable[fx.Node], other: Iterable[fx.Node]) -> bool:
    """Say whether independent operations of two groups may run in either order: no random draw, no statistic minds."""
    one, other = list(one), list(other)
    if any(may_draw(graph_module, node) for node in one) and any(may_draw(graph_module, node) for node in other):
        return False
    return _stateful_modules(graph_module, one).isdisjoint(_stateful_modules(graph_module, other))


def _stateful_modules(graph_module: fx.GraphModule, nodes: Iterable[fx.Node]) -> set[int]:
    modules = [graph_module.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"]
    return {id(module) for module in modules if any(True for _ in module.buffers())}


def _module_has_effect(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    module = graph_module.get_submodule(str(node.target))
    holds_tensors = bool([*module.parameters(), *module.buffers()])
    foreign = not type(module).__module__.startswith("torch.nn.modules.")
    writes = mutated_value(graph_module, node) is not None
    return holds_tensors or foreign or writes or _named_for(type(module).__name__, _RANDOM + _STATISTICS)


def _draws_by_name(name: str) -> bool:
    return _named_for(name, _RANDOM) and not _named_for(name, ("normalize",))


def _named_for(name: str, effects: tuple[str, ...]) -> bool:
    name = name.lower().replace("_", "")
    return any(effect in name for effect in effects)
