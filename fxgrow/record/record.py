"""What a GraphModule remembers of its own making: its origin, its edits and its growth history.

The record lies in ``graph_module.meta["fxgrow"]``. A GraphModule without one (from plain ``symbolic_trace``, or out of
somebody's pass) is a base with an empty record.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fxgrow.record.annotations import KEY
from fxgrow.record.evidence import SiteEvidence

if TYPE_CHECKING:
    import torch.fx as fx
    from torch import nn

#: The kind of growth in which an idle block of the model began to run, as a half-step of another one.
WAKING = "waking"


@dataclass(frozen=True)
class Origin:
    """Where the base model comes from, so that a file can rebuild it.

    Example:
        >>> Origin("timm", "deit_small_patch16_224", {"num_classes": 100}).spelling
        'timm:deit_small_patch16_224'
    """

    source: str  #: ``"timm"``
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spelling(self) -> str:
        """The origin as the command line spells it."""
        return f"{self.source}:{self.name}"


@dataclass(frozen=True)
class Evidence:
    """The scores for which neurons of a site were chosen to grow."""

    score: str  #: name of the score
    held_out: float | None  #: mean held-out score of the chosen neurons; None where there was none
    stderr: float | None  #: standard error of that mean, neurons taken as independent


@dataclass(frozen=True)
class Growth:
    """What one growth event did at one place."""

    #: ``"pseudo-layer"``, ``"residual-edge"``, ``"block"``, ``"width"``, `WAKING`, or the name of another pass
    kind: str
    site: str  #: module path of what grew
    parameters: int  #: how many were added, or began to run
    neurons: int = 0  #: how many of the site grew, or were added to it; 0 where a whole block did
    path: str | None = None  #: module path of what was inserted, or woke; None where what was there changed
    operator: str | None = None  #: the operator of a pseudo-layer
    evidence: Evidence | None = None  #: None where somebody named what grows

    @property
    def place(self) -> str:
        """Where it grew: the site, or the block that was inserted or woke."""
        return self.path if self.path is not None and not self.neurons else self.site


@dataclass(frozen=True)
class GrowthEvent:
    """One growth event: the line of the model's history that `fxgrow inspect` prints."""

    parameters_before: int
    parameters_after: int
    growths: tuple[Growth, ...]
    #: index of this event's edit in the edit log
    first_edit: int
    budget: int | None = None  #: the parameters that a plan could spend; None where somebody named what grows
    allocation: str | None = None  #: how the plan shared them out among sites
    #: whatever the training loop wants to remember: epoch, step, loss before and after
    context: Mapping[str, Any] = field(default_factory=dict)
    #: what the scores said of every site before this event; empty where somebody named what grows
    scores: tuple[SiteEvidence, ...] = ()


@dataclass(frozen=True)
class Record:
    """The memory of a GraphModule. Plain data: `fxgrow.files` writes it as JSON."""

    origin: Origin | None = None
    #: options of `fxgrow.trace` that are needed to trace the base in the same way again
    trace_policy: Mapping[str, Any] = field(default_factory=dict)
    #: what tracing had to give up, in sentences for the user
    trace_notes: tuple[str, ...] = ()
    #: why tracing kept modules whole, by their paths
    whole: Mapping[str, str] = field(default_factory=dict)
    #: digest of the graph before the first edit; empty where nothing was edited
    base_digest: str = ""
    #: the edit log: passes as text (`fxgrow.passes.parse`), in order
    edits: tuple[str, ...] = ()
    history: tuple[GrowthEvent, ...] = ()
    #: names of the parameters that the last growth event added
    new_parameters: tuple[str, ...] = ()


def record_of(graph_module: "fx.GraphModule") -> Record:
    """Return the record of `graph_module`; an empty one where it has none."""
    found = graph_module.meta.get(KEY)
    return found if isinstance(found, Record) else Record()


def update_record(graph_module: "fx.GraphModule", **changes: Any) -> None:
    """Replace fields of the record of `graph_module`."""
    graph_module.meta[KEY] = replace(record_of(graph_module), **changes)


def new_parameters(graph_module: "nn.Module") -> "dict[str, nn.Parameter]":
    """Return the parameters that the last growth event added, by name.

    Raises:
        TraceError: If `graph_module` is not traced.
    """
    from fxgrow.primitives.unwrapping import unwrap  # which imports torch; a file's record is read without

    graph_module = unwrap(graph_module)
    return {name: graph_module.get_parameter(name) for name in record_of(graph_module).new_parameters}


def remember(graph_module: "fx.GraphModule", context: Mapping[str, Any] | None, **fields: Any) -> "fx.GraphModule":
    """Write `context`, and fields of a plan, into the last event of the history of `graph_module`, and return it."""
    if context or fields:
        *earlier, last = record_of(graph_module).history
        event = replace(last, context={**last.context, **(context or {})}, **fields)
        update_record(graph_module, history=(*earlier, event))
    return graph_module


def revise_growths(graph_module: "fx.GraphModule", revise: Callable[[Growth], Growth]) -> None:
    """Replace the lines of the growth history, as after a rewrite that renames or resizes pseudo-layers."""
    history = tuple(
        replace(event, growths=tuple(revise(growth) for growth in event.growths))
        for event in record_of(graph_module).history
    )
    update_record(graph_module, history=history)
