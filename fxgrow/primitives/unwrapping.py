"""The traced model inside what training wraps around it."""

from collections.abc import Iterator

import torch.fx as fx
from torch import nn

from fxgrow.errors import TraceError

DataParallel = nn.parallel.DistributedDataParallel, nn.DataParallel


class CompiledForm(nn.Module):
    """Runs in the place of a GraphModule, and shares its parameters, buffers and submodules under their names."""

    graph_module: fx.GraphModule

    def stand_for(self, graph_module: fx.GraphModule) -> None:
        """Share what `graph_module` holds: the same dictionaries, so that what changes in one changes in both."""
        # Not registered as a submodule, which would put its name before every key of the state dict.
        self.__dict__["graph_module"] = graph_module
        self._parameters, self._buffers = graph_module._parameters, graph_module._buffers
        self._modules = graph_module._modules
        self._non_persistent_buffers_set = graph_module._non_persistent_buffers_set
        self.training = graph_module.training


def layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a model and what it wraps, from the outside in: DataParallel, torch.compile, `fxgrow.compile`."""
    inner: object = model
    while isinstance(inner, nn.Module):
        yield inner
        if isinstance(inner, CompiledForm):
            inner = inner.graph_module
        else:
            inner = inner.module if isinstance(inner, DataParallel) else getattr(inner, "_orig_mod", None)


def bare(model: nn.Module) -> nn.Module:
    """Return the model inside all of its wrappers.

    Raises:
        TraceError: If it is no module at all.
    """
    if not isinstance(model, nn.Module):
        raise TraceError("it is no nn.Module", where=type(model).__name__, fix="give the model")
    *_, innermost = layers(model)
    return innermost


def refuse_progressive(model: nn.Module) -> None:
    """Refuse a module that runs a traced graph of its own, in stages.

    Raises:
        TraceError: If it does; it says where that graph and the model are.
    """
    # a child of that name is a part of somebody's model like any other
    if "graph_module" not in model._modules and isinstance(getattr(model, "graph_module", None), fx.GraphModule):
        what = "it runs a traced graph of its own, and a larger one after each advance()"
        fix = "use its graph_module, which is what runs now, or its model, which is all of it"
        raise TraceError(what, where=type(model).__name__, fix=fix)


def unwrap(model: nn.Module) -> fx.GraphModule:
    """Return the GraphModule inside all of its wrappers.

    Raises:
        TraceError: If there is none.

    Example:
        >>> import torch
        >>> traced = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
        >>> unwrap(torch.compile(traced)) is traced
        True
    """
    innermost = bare(model)
    refuse_progressive(innermost)
    if not isinstance(innermost, fx.GraphModule):
        fix = "trace it first with fxgrow.trace(model, example_inputs), and use what that returns"
        raise TraceError("it is no traced model", where=type(innermost).__name__, fix=fix)
    return innermost
