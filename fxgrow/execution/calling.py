"""How a model is called: inputs as a caller gives them, by position and by name."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.fx as fx
from torch import nn

from fxgrow.errors import TraceError
from fxgrow.execution.inputs import example_inputs_of
from fxgrow.record.record import record_of


@dataclass(frozen=True)
class Inputs:
    """The inputs of one call of a model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, module: nn.Module, given: Any) -> "Inputs":
        """Take a tensor, a tuple of positional inputs, or a dict by the names of forward's parameters.

        What a dict names goes by keyword, except where Python wants it by position: a tuple for ``*args``, what stands
        before it, and what stands before a ``/``.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            return cls(tuple(given) if isinstance(given, tuple | list) else (given,), {})
        parameters = list(inspect.signature(module.forward).parameters.values())
        last = max((i for i, item in enumerate(parameters) if item.name in given and _by_position(item)), default=-1)
        args: list[Any] = []
        for item in parameters[: last + 1]:
            if item.name in given:
                args += given[item.name] if item.kind is item.VAR_POSITIONAL else [given[item.name]]
        placed = {item.name for item in parameters[: last + 1]}
        return cls(tuple(args), {name: value for name, value in given.items() if name not in placed})

    @classmethod
    def in_order(cls, names: Sequence[str], values: Sequence[Any], keywords: Sequence[str]) -> "Inputs":
        """Take values in the order of a graph's placeholders, those of `keywords` by their names."""
        pairs = list(zip(names, values, strict=True))
        args = tuple(value for name, value in pairs if name not in keywords)
        return cls(args, {name: value for name, value in pairs if name in keywords})

    @classmethod
    def drawn(cls, graph_module: fx.GraphModule, seed: int) -> "Inputs":
        """Draw inputs of the shapes of a graph's placeholders, for it and for the model that it was traced from."""
        names = [str(node.target) for node in graph_module.graph.find_nodes(op="placeholder")]
        keywords = record_of(graph_module).trace_policy.get("keywords", ())
        return cls.in_order(names, example_inputs_of(graph_module, seed), keywords)

    def call(self, module: nn.Module) -> Any:
        """Run `module` on them."""
        return module(*self.args, **self.kwargs)


def bind_placeholders(graph_module: fx.GraphModule, given: Any) -> dict[fx.Node, Any]:
    """Match inputs as a caller gives them (a tensor, a tuple, or a dict by keyword) with the placeholders.

    Raises:
        TraceError: If there are too many inputs, too few, or one of an unknown name.
    """
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    by_name = {str(node.target).lstrip("*"): node for node in placeholders}
    inputs = Inputs.of(graph_module, _spread(given, by_name))
    if len(inputs.args) > len(placeholders):
        what = f"{len(inputs.args)} inputs were given where the graph takes {len(placeholders)}"
        raise TraceError(what, where="example inputs", fix=f"give one for each of {', '.join(by_name)}")
    unknown = sorted(set(inputs.kwargs) - set(by_name))
    if unknown:
        raise TraceError("no input has this name", where=unknown[0], fix=f"choose among {', '.join(by_name)}")
    bound = dict(zip(placeholders, inputs.args, strict=False))
    bound |= {by_name[name]: value for name, value in inputs.kwargs.items()}
    for node in placeholders:
        if node not in bound:
            if not node.args or is_required(node):
                raise TraceError("an input is missing", where=str(node.target), fix="give example inputs for it")
            bound[node] = node.args[0]
    return bound


def is_required(node: fx.Node) -> bool:
    """Say whether a placeholder has a default only because Python wants one behind another default."""
    return "tensor_meta" in node.meta and node.args == (None,)


def _spread(given: Any, names: Mapping[str, fx.Node]) -> Any:
    """Name the items of what is given for ``*args`` as a graph's placeholders do: ``args_0``, ``args_1``, …."""
    if not isinstance(given, Mapping):
        return given
    spread: dict[str, Any] = {}
    for name, value in given.items():
        items = isinstance(value, tuple | list) and name not in names
        spread.update({f"{name}_{index}": item for index, item in enumerate(value)} if items else {name: value})
    return spread


def _by_position(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL)
