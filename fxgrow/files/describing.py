"""Describe a GraphModule as a table."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
import torch.fx as fx
from torch import nn

from fxgrow.errors import FileError, PassError
from fxgrow.files.input_values import to_spec
from fxgrow.files.table import InputSpec, NodeRow, SiteRow, Table
from fxgrow.graph.ends import inner_sites
from fxgrow.graph.network import depth_map
from fxgrow.graph.sites import Site, find_sites
from fxgrow.graph.wholes import find_wholes
from fxgrow.primitives.modules import fetch_attribute, parameter_count, qualified_name
from fxgrow.record.annotations import NO_GRADIENT, annotation
from fxgrow.record.digest import digest
from fxgrow.record.provenance import part_of
from fxgrow.record.record import record_of
from fxgrow.widths.branch_units import UnitsOfBranches, find_branch_units


def describe(graph_module: fx.GraphModule) -> Table:
    """Return the table of `graph_module`. Nothing is executed."""
    rows = _site_rows(graph_module)
    calls = {call: rows[path] for path, site in find_sites(graph_module).items() for call in site.calls}
    wholes, nodes = find_wholes(graph_module), graph_module.graph.nodes
    return Table(
        name=type(graph_module).__name__,
        digest=digest(graph_module),
        parameters=parameter_count(graph_module),
        inputs=tuple(_input_spec(node) for node in nodes if node.op == "placeholder"),
        nodes=tuple(_node_row(graph_module, node, calls.get(node), wholes) for node in nodes),
        record=record_of(graph_module),
        training=graph_module.training,
        other_mode=_other_mode(graph_module),
        frozen=tuple(name for name, parameter in graph_module.named_parameters() if not parameter.requires_grad),
    )


def _input_spec(node: fx.Node) -> InputSpec:
    value = node.meta.get("tensor_meta", next(iter(node.args), None))  # a fixed argument is its own default
    seen = annotation(node).get("integers")
    return InputSpec(
        name=str(node.target),
        value=_spec(value, str(node.target)),
        integers=(seen[0], seen[1]) if seen else None,
        values=annotation(node).get("values"),
    )


def _spec(value: Any, name: str) -> Any:
    try:
        return to_spec(value)
    except FileError as error:
        raise FileError(error.what, where=name, fix=error.fix) from error


def _other_mode(graph_module: fx.GraphModule) -> tuple[str, ...]:
    """Return the modules in another mode than the model; bare containers, which compute nothing, do not count."""
    modules = ((name, module) for name, module in graph_module.named_modules() if type(module) is not nn.Module)
    return tuple(name for name, module in modules if module.training != graph_module.training)


def _site_rows(graph_module: fx.GraphModule) -> dict[str, SiteRow]:
    sites, depths = find_sites(graph_module), depth_map(graph_module)
    inner = inner_sites(graph_module, sites)
    own = digest(graph_module)
    refusals = {path: site.refusal or _found_dark(site, own) for path, site in sites.items()}
    units = _units(graph_module)
    return {
        path: SiteRow(
            path=path,
            neurons=site.neurons,
            features=site.features,
            refusal=refusals[path],
            by_default=path in inner and refusals[path] is None,
            depths=tuple(sorted(Counter(depths[path]).items())),
            units=units.found[path].count if path in units.found else 0,
            no_units=units.refusals.get(path, ""),
        )
        for path, site in sites.items()
    }


def _units(graph_module: fx.GraphModule) -> UnitsOfBranches:
    """Return the units of residual branches; without shapes on the nodes nothing is known of them."""
    try:
        return find_branch_units(graph_module)
    except PassError as error:
        return UnitsOfBranches({}, dict.fromkeys(find_sites(graph_module), error.what))


def _found_dark(site: Site, own: str) -> str | None:
    """Return what an analysis of this graph, whose digest is `own`, found against growth at a site."""
    scores = annotation(site.calls[0]).get("scores")
    reached = scores.get("reached") if scores and scores["digest"] == own else None
    return NO_GRADIENT if reached and not any(reached) else None


def _node_row(graph_module: fx.GraphModule, node: fx.Node, site: SiteRow | None, wholes: Mapping[str, str]) -> NodeRow:
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    shape, dtype = _shape_and_dtype(node)
    return NodeRow(
        name=node.name,
        op=node.op,
        target=qualified_name(node.target) if callable(node.target) else str(node.target),
        path=_owner(node),
        module_type=f"{type(module).__module__}.{type(module).__qualname__}" if module is not None else "",
        extra_repr=module.extra_repr() if module is not None else "",
        inputs=tuple(source.name for source in node.all_input_nodes),
        arguments=_spell_arguments(node),
        shape=shape,
        dtype=dtype,
        parameters=_parameters(graph_module, node, module),
        annotation=annotation(node),
        site=site,
        whole=wholes.get(_owner(node) or str(node.target), "") if node.op in ("call_module", "get_attr") else "",
    )


def _owner(node: fx.Node) -> str:
    """Return the path of the module that a node belongs to: what it calls, or whose forward it stands in."""
    if node.op == "call_module":
        return str(node.target)
    if node.op == "get_attr":
        return str(node.target).rpartition(".")[0]
    part, stack = part_of(node), node.meta.get("nn_module_stack")
    return part.path if part else (list(stack)[-1].partition("@")[0] if stack else "")


def _parameters(graph_module: fx.GraphModule, node: fx.Node, module: nn.Module | None) -> dict[str, tuple[int, ...]]:
    if module is not None:
        found = {f"{node.target}.{name}": parameter for name, parameter in module.named_parameters()}
        return {name: tuple(parameter.shape) for name, parameter in found.items()}
    if node.op == "get_attr":
        value = fetch_attribute(graph_module, str(node.target))
        return {str(node.target): tuple(value.shape)} if isinstance(value, nn.Parameter) else {}
    return {}


def _shape_and_dtype(node: fx.Node) -> tuple[tuple[int, ...] | None, str | None]:
    meta = node.meta.get("tensor_meta")
    shape, dtype = getattr(meta, "shape", None), getattr(meta, "dtype", None)
    if shape is None or not isinstance(dtype, torch.dtype):
        return None, None
    return tuple(int(size) for size in shape), _dtype_name(dtype)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _spell_arguments(node: fx.Node) -> str:
    positional = [_spell(argument) for argument in node.args]
    return ", ".join([*positional, *(f"{name}={_spell(value)}" for name, value in node.kwargs.items())])


def _spell(value: Any) -> str:
    if isinstance(value, tuple | list):
        inner = ", ".join(map(_spell, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_spell(item)}' for key, item in value.items())}}}"
    if isinstance(value, torch.Tensor):
        return f"tensor{tuple(value.shape)}"
    return qualified_name(value) if callable(value) else str(value)
