"""The two doors of `fxgrow.trace`: the model itself, or its torch.export program."""

import torch
import torch.fx as fx
from torch import nn

import fxgrow
from fxgrow.errors import TraceError
from fxgrow.graph.sites import find_sites
from model_census.building import Built

SYMBOLIC, EXPORT = "symbolic trace", "torch.export"
#: Below this share of growable parameters the other door is tried too.
ENOUGH = 0.5


def traced_through(built: Built) -> tuple[fx.GraphModule, str]:
    """Trace without the gate, and say through which door.

    The model itself comes first. Where less than `ENOUGH` of it could grow in what comes out, or nothing comes out, its
    export program is tried, and taken if more of it could grow.

    Raises:
        TraceError: If neither works; what the first door said.
    """
    refusal: TraceError | None = None
    share = 0.0
    try:
        traced = fxgrow.trace(built.model, built.inputs, origin=built.origin, check=False)
        share = growable_share(traced, built.model)
    except TraceError as error:
        refusal = error
    if share < ENOUGH:
        try:
            exported = through_export(built)
        except Exception:  # torch.export raises whatever the model's own code raises; the first door's word counts
            exported = None
        if exported is not None and growable_share(exported, built.model) > share:
            return exported, EXPORT
    if refusal is not None:
        raise refusal
    return traced, SYMBOLIC


def through_export(built: Built) -> fx.GraphModule:
    """Export the model in eval mode with a free batch size, and trace the program."""
    args, kwargs = ((), built.inputs) if isinstance(built.inputs, dict) else ((built.inputs,), {})
    batch = {0: torch.export.Dim.AUTO}
    shapes = dict.fromkeys(kwargs, batch) if kwargs else (batch,)
    program = torch.export.export(built.model.eval(), args, kwargs, dynamic_shapes=shapes)
    return fxgrow.trace(program, built.inputs, origin=built.origin, check=False)


def growable_share(traced: fx.GraphModule, model: nn.Module) -> float:
    """Return the share of the model's parameters that sit in sites which may grow."""
    names = {
        name
        for site in find_sites(traced).values()
        if site.refusal is None
        for name in (site.weight, site.bias)
        if name
    }
    total = sum(parameter.numel() for parameter in model.parameters())
    return sum(traced.get_parameter(name).numel() for name in names) / total if total else 0.0
