"""What a GraphModule remembers of its own making: its origin, its edits and its growth history.

The record lies in ``graph_module.meta["fxgrow"]``. A GraphModule without one (from plain ``symbolic_trace``, or out of
somebody's pass) is a base with an empty record.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch.fx as fx
from torch import nn

from fxgrow.record.annotations import KEY


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
class SiteGrowth:
    """What one growth event did at one site."""

    site: str
    pseudo_layer: str
    operator: str
    neurons: int
    parameters: int
    score: str
    held_out: float | None  #: mean held-out score of the chosen neurons
    stderr: float | None  #: standard error of that mean, neurons taken as independent


@dataclass(frozen=True)
class GrowthEvent:
    """One growth event: the line of the model's history that `fxgrow inspect` prints."""

    parameters_before: int
    parameters_after: int
    budget: int
    allocation: str
    sites: tuple[SiteGrowth, ...]
    #: first index of this event's edits in the edit log
    first_edit: int
    #: whatever the training loop wants to remember: epoch, step, loss before and after
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """The memory of a GraphModule. Plain data: `fxgrow.files` writes it as JSON."""

    origin: Origin | None = None
    #: options of `fxgrow.trace` that are needed to trace the base in the same way again
    trace_policy: Mapping[str, Any] = field(default_factory=dict)
    #: what tracing had to give up, in sentences for the user
    trace_notes: tuple[str, ...] = ()
    #: digest of the graph before the first edit; empty where nothing was edited
    base_digest: str = ""
    #: the edit log: passes as text (`fxgrow.passes.parse`), in order
    edits: tuple[str, ...] = ()
    history: tuple[GrowthEvent, ...] = ()
    #: names of the parameters that the last growth event added
    new_parameters: tuple[str, ...] = ()


def record_of(graph_module: fx.GraphModule) -> Record:
    """Return the record of `graph_module`; an empty one where it has none."""
    found = graph_module.meta.get(KEY)
    return found if isinstance(found, Record) else Record()


def update_record(graph_module: fx.GraphModule, **changes: Any) -> None:
    """Replace fields of the record of `graph_module`."""
    graph_module.meta[KEY] = replace(record_of(graph_module), **changes)


def new_parameters(graph_module: fx.GraphModule) -> dict[str, nn.Parameter]:
    """Return the parameters that the last growth event added, by name."""
    return {name: graph_module.get_parameter(name) for name in record_of(graph_module).new_parameters}


def revise_growths(graph_module: fx.GraphModule, revise: Callable[[SiteGrowth], SiteGrowth]) -> None:
    """Replace the lines of the growth history, as after a rewrite that renames or resizes pseudo-layers."""
    history = tuple(
        replace(event, sites=tuple(revise(growth) for growth in event.sites))
        for event in record_of(graph_module).history
    )
    update_record(graph_module, history=history)
