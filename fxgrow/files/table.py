"""A GraphModule as a table: everything about it that can be read and printed without its code, and without torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from fxgrow.record.annotations import Annotation
from fxgrow.record.depth import Step, depths
from fxgrow.record.provenance import Provenance, read_provenance
from fxgrow.record.record import Record

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
    whole: str = ""  #: why nothing can grow in the module that it calls, or whose weight it computes with

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
        return [(tuple(shape), dtype) for shape, dtype in tensor_specs(self.value)]


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


def tensor_specs(spec: Any) -> Iterator[tuple[Any, Any]]:
    """Yield shape and dtype of each tensor in an input that `to_spec` described: a list of sizes, and a name."""
    if isinstance(spec, dict) and set(spec) == {"shape", "dtype"}:
        yield spec["shape"], spec["dtype"]
    elif isinstance(spec, dict | list):
        for item in spec.values() if isinstance(spec, dict) else spec:
            yield from tensor_specs(item)
