"""The normal form of a graph: each value is written once, when it is made."""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx
from torch import nn
from torch.fx.passes.shape_prop import TensorMetadata

from fxgrow.graph.memory import sharing, touches
from fxgrow.graph.operations import Operations
from fxgrow.graph.spelling import functional_form, inplace_position, overwritten_argument
from fxgrow.primitives.modules import add_module, fresh_path
from fxgrow.primitives.put import put

#: methods that fill all of a tensor, with their argument or with a constant
#: the key of all of a tensor; torch.fx takes it, and its types do not know it
_ALL: Any = ...
_FILLING: dict[object, tuple[Any, ...]] = {"copy_": (), "fill_": (), "zero_": (0,)}


def normalise(graph_module: fx.GraphModule) -> None:
    """Let operations return a new value instead of overwriting their argument, where no other value shows the change.

    Who reads the overwritten value afterwards reads the result instead, and shapes go from the nodes that are
    rewritten. The rules are those of the pass `functionalize-inplace`, which is this function.

    Args:
        graph_module: Changed in place; its modules are replaced, not changed. With shapes on its nodes more can be
            known of it, and more is rewritten.
    """
    rewriting = _Rewriting(graph_module)
    for node in list(graph_module.graph.nodes):
        value = rewriting.overwritten(node)
        if value is None:
            continue
        if rewriting.is_private(value, node):
            rewriting.rewrite(node, value)
        elif _whole(value) is not None and rewriting.is_private(value, node, of=_whole(value)):
            rewriting.rewrite_item(node, value)
    rewriting.finish()


class _Rewriting:
    """A graph on its way to the normal form."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module, self.graph = graph_module, graph_module.graph
        self.operations = Operations(graph_module)
        self.functional: dict[str, str] = {}  # paths of modules in place, and of those that replace them
        self.rewritten: list[fx.Node] = []

    def overwritten(self, node: fx.Node) -> fx.Node | None:
        """Return the value that `node` overwrites, if it is the only one and a form without that exists."""
        value = overwritten_argument(self.graph_module, node)
        if value is None or self.operations.written(node) != [value]:
            return None
        if node.op == "call_module":
            return value if next(self.graph_module.get_submodule(str(node.target)).parameters(), None) is None else None
        if "out" in node.kwargs:
            return value if _layout(node) == _layout(value) is not None else None
        if node.target in _FILLING:
            return value if len(node.args) + len(_FILLING[node.target]) == 2 and not node.kwargs else None
        known = inplace_position(node) is not None or functional_form(node) is not None
        return value if known and (node.target is operator.setitem or _keeps_dtype(node, value)) else None

    def is_private(self, value: fx.Node, node: fx.Node, *, of: fx.Node | None = None) -> bool:
        """Say whether nobody but later readers of `value`, and of what it is a part `of`, sees that `node` writes."""
        shown = sharing(self.operations, value, before=node)
        if any(other.op == "get_attr" or self.operations[other].shows_state for other in shown):
            return False
        back = _written_back(node, value)
        return all(
            other in (value, of) or not touches(self.operations, user, other)
            for other in shown
            for user in other.users
            if user > node and (back is None or user < back)
        )

    def rewrite(self, node: fx.Node, value: fx.Node) -> None:
        """Let `node` return what it wrote."""
        later = [user for user in value.users if user > node]
        if node.op == "call_module":
            node.target = self._functional_module(str(node.target))
        elif "out" in node.kwargs:
            node.kwargs = {name: argument for name, argument in node.kwargs.items() if name != "out"}
        elif node.target in _FILLING:
            node.args = (value, _ALL, *node.args[1:], *_FILLING[node.target])
            node.op, node.target = "call_function", put
        else:
            self._rewrite_call(node)
        for user in later:
            user.replace_input_with(value, node)
        self._note(node, value)

    def rewrite_item(self, node: fx.Node, item: fx.Node) -> None:
        """Let `node` return what it wrote to an item of a tensor, and put that into a copy of the tensor.

        Who reads the tensor afterwards reads the copy, and who reads the item an item of the copy.
        """
        whole, key = item.args
        assert isinstance(whole, fx.Node)
        later = {value: [user for user in value.users if user > node] for value in (whole, item, node)}
        self.rewrite(node, item)
        stored = self._insert(whole, node, put, (whole, key, node))
        taken = self._insert(item, stored, operator.getitem, (stored, key))
        for value, users in later.items():
            for user in users:
                user.replace_input_with(node if value is item else value, stored if value is whole else taken)
        if not taken.users:
            self.graph.erase_node(taken)

    def _insert(self, like: fx.Node, place: fx.Node, function: Callable[..., Any], args: tuple[Any, ...]) -> fx.Node:
        with self.graph.inserting_after(place):
            made = self.graph.call_function(function, args)
        if "nn_module_stack" in place.meta:
            made.meta["nn_module_stack"] = place.meta["nn_module_stack"]
        self._note(made, like)
        return made

    def _note(self, node: fx.Node, like: fx.Node) -> None:
        """Let later decisions know of a node that is new, or another one now, and of the layout of its value."""
        self.operations.forget(node)
        for known in ("tensor_meta", "type"):
            if known in like.meta:
                node.meta[known] = like.meta[known]
        self.rewritten.append(node)

    def _rewrite_call(self, node: fx.Node) -> None:
        place = inplace_position(node)
        if isinstance(place, int):
            node.update_arg(place, False)
        elif place is not None:
            node.update_kwarg(place, False)
        else:
            form = functional_form(node)
            assert form is not None
            node.target = form

    def _functional_module(self, path: str) -> str:
        if path not in self.functional:
            module = copy.deepcopy(self.graph_module.get_submodule(path))
            module.inplace = False  # type: ignore[assignment]
            self.functional[path] = fresh_path(self.graph_module, path.replace(".", "_"))
            add_module(self.graph_module, self.functional[path], module)
        return self.functional[path]

    def finish(self) -> None:
        """Give modules that replaced another one everywhere its name, and forget the shapes of what was rewritten."""
        for path, functional in self.functional.items():
            parent_path, _, name = path.rpartition(".")
            parent = self.graph_module.get_submodule(parent_path)
            in_use = self.graph.find_nodes(op="call_module", target=path)
            if not in_use and (parent is self.graph_module or type(parent) is nn.Module):
                setattr(parent, name, self.graph_module.get_submodule(functional))
                delattr(self.graph_module, functional)
                for node in self.graph.find_nodes(op="call_module", target=functional):
                    node.target = path
        for node in self.rewritten:
            for known in ("tensor_meta", "type"):
                node.meta.pop(known, None)


def _written_back(node: fx.Node, value: fx.Node) -> fx.Node | None:
    """Return the assignment that stores what `node` makes of an item where the item was, as ``x[k] += 1`` does."""
    if value.target is not operator.getitem:
        return None
    stored = (*value.args, node)
    return next((user for user in node.users if user.target is operator.setitem and user.args == stored), None)


def _whole(part: fx.Node) -> fx.Node | None:
    """Return the tensor that a value is an item of."""
    whole = part.args[0] if part.target is operator.getitem else None
    return whole if isinstance(whole, fx.Node) and _layout(whole) is not None else None


def _layout(node: fx.Node) -> tuple[torch.Size, torch.dtype] | None:
    metadata = node.meta.get("tensor_meta")
    return (metadata.shape, metadata.dtype) if isinstance(metadata, TensorMetadata) else None


def _keeps_dtype(node: fx.Node, value: fx.Node) -> bool:
    """Say whether the other operands would not change the dtype of a new result; yes where dtypes are not known."""
    dtypes = [getattr(other.meta.get("tensor_meta"), "dtype", None) for other in (value, *node.all_input_nodes)]
    own = dtypes[0]
    return own is None or all(dtype is None or torch.promote_types(own, dtype) == own for dtype in dtypes)
