"""What is replaced in torch while a model is traced, so that nothing escapes the tracer without a word."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.fx as fx
import torch.nn.functional as F
import torch.utils.checkpoint
from torch.fx import _symbolic_trace
from torch.fx.node import map_aggregate

from fxgrow.tracing.attention import written_out

if TYPE_CHECKING:
    from fxgrow.tracing.tracer import ModelTracer

#: torch functions that take sizes, dtypes and devices, and therefore ignore that one of them is a proxy
_FACTORIES = (
    "arange", "empty", "finfo", "full", "iinfo", "linspace", "ones", "rand", "randint", "randn", "randperm", "zeros",
)  # fmt: skip
_ATTENTION = "multi_head_attention_forward"
_CHECKPOINT_OPTIONS = {"context_fn", "debug", "determinism_check", "early_stop", "preserve_rng_state", "use_reentrant"}


@contextmanager
def interception(tracer: "ModelTracer") -> Iterator[None]:
    """Record, call through or report what torch.fx does not see.

    1. Factories, as ``torch.zeros(x.shape[0])``, are recorded where an argument comes from the inputs.
    2. Activation checkpointing becomes a plain call, with a note: its hooks have nothing to save while tracing.
    3. Modules that enter torch.autocast are reported: a graph records no such context.
    4. Functions that torchvision's models keep from tracing for their control flow on sizes are traced.
    5. What nn.MultiheadAttention computes is recorded operation by operation, and without the shortcuts that it and
       nn.TransformerEncoder look for in eval mode.
    6. Conditions on sizes that torch._check demands are decided, as in an ``if``.
    """
    with ExitStack() as stack:
        for name in _FACTORIES:
            stack.enter_context(_replaced(torch, name, _recording(tracer, getattr(torch, name))))
        stack.enter_context(_replaced(torch.utils.checkpoint, "checkpoint", _calling_through(tracer)))
        stack.enter_context(_replaced(torch.autocast, "__init__", _on_any_device(torch.autocast.__init__)))
        stack.enter_context(_replaced(torch.autocast, "__enter__", _reporting(tracer, torch.autocast.__enter__)))
        stack.enter_context(_traceable_torchvision())
        stack.enter_context(_replaced(F, _ATTENTION, written_out(getattr(F, _ATTENTION))))
        stack.enter_context(_replaced(torch.backends.mha, "get_fastpath_enabled", lambda: False))
        stack.enter_context(_replaced(torch, "_check_with", _deciding(torch._check_with)))
        yield


@contextmanager
def _replaced(home: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    original = getattr(home, name)
    setattr(home, name, replacement)
    try:
        yield
    finally:
        setattr(home, name, original)


def _recording(tracer: "ModelTracer", original: Callable[..., Any]) -> Callable[..., Any]:
    def factory(*args: Any, **kwargs: Any) -> Any:
        found: list[fx.Proxy] = []
        map_aggregate((args, kwargs), lambda value: found.append(value) if isinstance(value, fx.Proxy) else None)
        return tracer.create_proxy("call_function", original, args, kwargs) if found else original(*args, **kwargs)

    return factory


def _calling_through(tracer: "ModelTracer") -> Callable[..., Any]:
    def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        tracer.note("activation checkpointing is dropped: the traced model keeps its activations for the backward pass")
        return function(*args, **{name: value for name, value in kwargs.items() if name not in _CHECKPOINT_OPTIONS})

    return checkpoint


def _on_any_device(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let a context for the device of an input be built: it is entered, and reported, next."""

    def build(context: torch.autocast, device_type: Any, *args: Any, **kwargs: Any) -> None:
        original(context, "cpu" if isinstance(device_type, fx.Proxy) else device_type, *args, **kwargs)

    return build


def _reporting(tracer: "ModelTracer", original: Callable[..., Any]) -> Callable[..., Any]:
    def enter(context: torch.autocast) -> Any:
        tracer.find("enters torch.autocast, which a graph does not record")
        return original(context)

    return enter


def _deciding(original: Callable[..., Any]) -> Callable[..., Any]:
    def check(error_type: Any, condition: Any, message: Any) -> None:
        original(error_type, bool(condition) if isinstance(condition, fx.Proxy) else condition, message)

    return check


@contextmanager
def _traceable_torchvision() -> Iterator[None]:
    registered = _symbolic_trace._wrapped_fns_to_patch
    hidden = {
        key: home for key, home in registered.items() if str(home.get("__name__")).startswith("torchvision.models.")
    }
    for key in hidden:
        del registered[key]
    try:
        yield
    finally:
        registered.update(hidden)
