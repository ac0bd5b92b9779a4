"""Calls of a torch.autograd.Function: each stays one operation, since its backward is code that no graph records."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import _symbolic_trace
from torch.fx._symbolic_trace import _PatchedFn
from torch.utils.checkpoint import CheckpointFunction

from fxgrow.tracing.proxies import holds_proxy

if TYPE_CHECKING:
    from fxgrow.tracing.tracer import ModelTracer

CHECKPOINTING = (
    "activation checkpointing is dropped, as are other hooks on saved tensors: the traced model keeps its activations"
)
_Meta: Any = type(torch.autograd.Function)


@dataclass(frozen=True)
class FunctionCall:
    """The target of a node that applies an autograd function; two of one function are equal."""

    function: type[torch.autograd.Function]

    def __post_init__(self) -> None:
        """Bear the function's name, as torch.fx and the digest of a graph read it off a target."""
        kind = self.function
        names = {"__module__": kind.__module__, "__qualname__": f"{kind.__qualname__}.apply", "__name__": kind.__name__}
        self.__dict__.update(names)

    def __call__(self, *args: Any) -> Any:
        """Apply the function."""
        return self.function.apply(*args)


def replace_function_forwards(tracer: "ModelTracer") -> None:
    """Let the present trace, until its end, record calls of autograd functions.

    torch looks up ``forward`` of the function at each ``apply``, also where a module kept ``Round.apply`` when it was
    imported. It is this look-up that is caught.
    """
    patcher = _symbolic_trace.CURRENT_PATCHER
    assert patcher is not None

    def look_up(function: Any, name: str) -> Any:
        found = type.__getattribute__(function, name)
        return _recording(tracer, function, found) if name == "forward" else found

    addition = _Addition(_Meta, "__getattribute__", None, look_up)
    patcher.patches_made.append(addition)
    addition.patch()


def _recording(tracer: "ModelTracer", function: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def forward(*args: Any) -> Any:
        context = args[:1] if function.setup_context is torch.autograd.Function.setup_context else ()
        values = args[len(context) :]
        applied = not torch.is_grad_enabled() and all(isinstance(item, torch._C._FunctionBase) for item in context)
        if not applied or not holds_proxy(values):
            return original(*args)
        if function is CheckpointFunction:
            tracer.note(CHECKPOINTING)
            return tracer.with_own_gradient_mode(lambda: values[0](*values[2:]))
        tracer.note(f"{function.__name__}, an autograd function, stays one operation in {tracer.place}")
        try:
            return tracer.create_proxy("call_function", FunctionCall(function), values, {})
        except NotImplementedError as error:  # torch.fx knows no such argument
            raise TypeError(f"{function.__name__}, an autograd function, is given an {error}") from error

    return forward


class _Addition(_PatchedFn):
    """An attribute that a class has only while its patcher holds."""

    def patch(self) -> None:
        setattr(self.frame_dict, self.fn_name, self.new_fn)

    def revert(self) -> None:
        delattr(self.frame_dict, self.fn_name)
