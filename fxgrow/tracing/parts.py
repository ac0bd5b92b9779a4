"""The largest part of a model that can be traced, where the whole of it cannot."""

import heapq
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from torch import nn

from fxgrow.errors import TraceError
from fxgrow.execution.calling import Inputs
from fxgrow.execution.preservation import preserved
from fxgrow.primitives.modules import parameter_count
from fxgrow.tracing.arguments import bind_call
from fxgrow.tracing.faithful import trace_faithfully

_TRIES = 6  #: parts that are tried, the largest first


def traceable_part(model: nn.Module, inputs: Inputs) -> str | None:
    """Return the path of the largest of the first few submodules that can be traced; None if there is none.

    The model is run once, to see what its parts are given.

    Args:
        model: A model that cannot be traced itself.
        inputs: Inputs that it takes.
    """
    with preserved(model):
        calls = _calls(model, inputs)
        for path, module in _by_size(model, calls):
            with preserved(module):
                try:
                    trace_faithfully(module, bind_call(module, calls[module]), (), None)
                except TraceError:
                    continue
            return path
    return None


def _calls(model: nn.Module, inputs: Inputs) -> dict[nn.Module, Inputs]:
    """Return the inputs of the first call of each submodule."""
    found: dict[nn.Module, Inputs] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.setdefault(module, Inputs(args, kwargs))

    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in list(model.modules())[1:]]
    try:
        model.eval()
        with torch.no_grad():
            inputs.call(model)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _by_size(model: nn.Module, called: dict[nn.Module, Inputs]) -> Iterator[tuple[str, nn.Module]]:
    """Yield a few of the called submodules that have others inside, the largest first, and each before its parts."""
    order = count()
    heap = [(0, next(order), "", model)]
    tries = 0
    while heap and tries < _TRIES:
        _, _, path, module = heapq.heappop(heap)
        if module in called and len(list(module.children())):
            tries += 1
            yield path, module
        for name, child in module.named_children():
            heapq.heappush(heap, (-parameter_count(child), next(order), f"{path}.{name}".lstrip("."), child))
