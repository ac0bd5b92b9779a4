"""A GraphModule as a table: everything about it that can be read and printed without its code."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import torch
import torch.fx as fx
from torch import nn

from fxgrow.errors import FileError, PassError
from fxgrow.files.input_values import tensor_specs, to_spec
from fxgrow.graph.ends import inner_sites
from fxgrow.graph.network import depth_map
from fxgrow.graph.sites import Site, find_sites
from fxgrow.primitives.modules import fetch_attribute, parameter_count, qualified_name
from fxgrow.record.annotations import NO_GRADIENT, Annotation, annotation
from fxgrow.record.depth import Step, depths
from fxgrow.record.digest import digest
from fxgrow.record.provenance import Provenance, part_of, read_provenance
from fxgrow.record.record import Record, record_of
from fxgrow.widths.branch_units import UnitsOfBranches, find_branch_units

Count = Annotated[int, msgspec.Meta(ge=0)]
Shape = tuple[Count, ...]


@dataclass(frozen=True)
class SiteRow:
    """What a table says of the site that a node calls."""

    path: str
    neurons: Count
    features: Count
    refusal: str | None  #: why nothing may grow here; None for a site that may grow
    by_default: bool  #: whether it grows without being asked for; the stem and the head do not
    #: how many neurons are how many pseudo-layers deep, as pairs (depth, neurons), shallow first
    depths: tuple[tuple[Count, Count], ...]
    units: Count = 0  #: how many hidden units or heads its rows are, which half-steps can be given to
    no_units: str = ""  #: why there are none

    @property
    def depth(self) -> int:
        """The depth of the deepest neuron: 0 where nothing grew."""
        return max((depth for depth, _ in self.depths), default=0)


@dataclass(frozen=True)
class NodeRow:
    """One node of the graph."""

    name: str
    op: str  #: ``call_module``, ``call_function``, …
    target: str  #: module path, or the importable name of a function
    path: str  #: the module that the node belongs to, as a module path; empty for the model itself
    module_type: str  #: for a called module: its class, as in ``torch.nn.modules.linear.Linear``
    extra_repr: str  #: for a called module: its options, as torch prints them
    inputs: tuple[str, ...]  #: names of the nodes whose values it reads
    arguments: str  #: all arguments, spelled
    shape: Shape | None  #: None where the value is not a tensor, or not known
    dtype: str | None
    parameters: Mapping[str, Shape]  #: shapes of the parameters that it reads, by name
    annotation: Annotation
    site: SiteRow | None = None

    @property
    def provenance(self) -> Provenance:
        """Which edit made it, and what it is a part of; empty for a node of the base."""
        return read_provenance(self.annotation) or Provenance()


@dataclass(frozen=True)
class InputSpec:
    """One input of the model, as it was when the model was traced."""

    name: str
    #: the value, as `fxgrow.files.input_values.to_spec` describes it
    value: Any
    integers: tuple[int, int] | None = None  #: for a tensor of integers: the least and the greatest seen
    values: list[Any] | None = None  #: for a tensor of integers on which control flow depends: what it held

    @property
    def tensors(self) -> list[tuple[tuple[int, ...], str]]:
        """Shape and dtype of each tensor in it."""
        return list(tensor_specs(self.value))


@dataclass(frozen=True)
class Table:
    """A model without its weights and without its code: plain data."""

    name: str  #: class name of the model
    digest: str  #: `fxgrow.record.digest.digest` of the graph
    parameters: Count  #: number of scalars in its parameters, tied ones counted once
    inputs: tuple[InputSpec, ...]
    nodes: tuple[NodeRow, ...]
    record: Record
    training: bool = True
    #: modules whose train/eval mode is not that of the model
    other_mode: tuple[str, ...] = ()
    #: parameters that do not require a gradient
    frozen: tuple[str, ...] = ()
    #: what the file says of its own making, empty for a model in memory
    written_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def depth_map(self) -> dict[str, list[int]]:
        """How many pseudo-layers deep each neuron of each site is, as `fxgrow.depth_map` says of the graph."""
        steps = [Step.of(row.name, row.inputs, row.provenance) for row in self.nodes]
        return depths(steps, {row.site.path: row.site.neurons for row in self.nodes if row.site})

    @property
    def flops(self) -> int:
        """Floating point operations of one forward pass on `inputs`, two for a multiply-add; 0 where not known."""
        return sum(row.annotation.get("flops", 0) for row in self.nodes)


def describe(graph_module: fx.GraphModule) -> Table:
    """Return the table of `graph_module`. Nothing is executed."""
    rows = _site_rows(graph_module)
    calls = {call: rows[path] for path, site in find_sites(graph_module).items() for call in site.calls}
    nodes = graph_module.graph.nodes
    return Table(
        name=type(graph_module).__name__,
        digest=digest(graph_module),
        parameters=parameter_count(graph_module),
        inputs=tuple(_input_spec(node) for node in nodes if node.op == "placeholder"),
        nodes=tuple(_node_row(graph_module, node, calls.get(node)) for node in nodes),
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


def _node_row(graph_module: fx.GraphModule, node: fx.Node, site: SiteRow | None) -> NodeRow:
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
