"""Functions that are kept as one node, since they do not run on what stands for a value while it is traced."""

import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import wraps
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import torch.fx as fx
from torch import nn
from torch.fx.node import map_aggregate

from fxgrow.tracing.proxies import holds_proxy

if TYPE_CHECKING:
    from fxgrow.tracing.tracer import ModelTracer

Function = Callable[..., Any]
#: they look at types and sizes, and keep what they have seen in caches of their own
_EINOPS = ("einsum", "pack", "rearrange", "reduce", "repeat", "unpack")

_OURS = {"fxgrow", "torch"}  #: packages whose functions run on proxies, or dispatch on them


def untraceable_functions() -> tuple[Function, ...]:
    """Return the functions that timm registers as not traceable, and those of einops; none of what is not loaded."""
    registered: Any = getattr(sys.modules.get("timm.models"), "get_notrace_functions", tuple)()
    einops = sys.modules.get("einops")
    return (*registered, *(getattr(einops, name) for name in _EINOPS if hasattr(einops, name)))


def is_einops_layer(module: nn.Module) -> bool:
    """Say whether `module` is a layer of einops that only rearranges."""
    return type(module).__module__.startswith("einops.layers.") and next(module.parameters(), None) is None


@contextmanager
def recorded(tracer: "ModelTracer", functions: Collection[Function], model: nn.Module) -> Iterator[None]:
    """Have `functions` recorded as one node each wherever code of the model's packages, or their own, names them.

    So is ``len``, which Python itself wants to be a number: that of a tensor may be the size of the batch.
    """
    by_identity = {id(function): _recording(tracer, function) for function in functions}
    homes, length = list(_homes(functions, model)), tracer.length
    replaced = [
        (namespace, name, value)
        for namespace in (*homes, *map(vars, model.modules()))  # an activation, say, that a layer was given
        for name, value in namespace.items()
        if id(value) in by_identity
    ]
    for namespace, name, value in replaced:
        namespace[name] = by_identity[id(value)]
    shadowed = [namespace for namespace in homes if namespace.setdefault("len", length) is length]
    try:
        yield
    finally:
        for namespace, name, value in replaced:
            namespace[name] = value
        for namespace in shadowed:
            del namespace["len"]


def rejecting_function(error: BaseException) -> Function | None:
    """Return the innermost function of a module's namespace that failed on traced values, with no module in its hands.

    What it does to them it can do when the graph runs. A function that is given a module stays out: its parameters
    would be hidden.

    Args:
        error: What was raised while the model was traced.
    """
    frames = _frames(error)
    inside = max((index for index, frame in enumerate(frames) if isinstance(_self(frame), nn.Module)), default=-1)
    found = (_function_of(frame) for frame in reversed(frames[inside + 1 :]))
    return next((function for function in found if function is not None), None)


def calling_function() -> Function | None:
    """Return the outermost function that runs in the forward of the innermost module, if a graph can call it."""
    frame: FrameType | None = sys._getframe(1)
    found: Function | None = None
    while frame is not None and not isinstance(_self(frame), nn.Module):
        found = _function_of(frame, parameters=False) or found
        frame = frame.f_back
    return found


def spelled(function: Function) -> str:
    """Return the name by which a function is imported."""
    return f"{function.__module__}.{function.__qualname__}"


def _recording(tracer: "ModelTracer", function: Function) -> Function:
    @wraps(function)
    def record(*args: Any, **kwargs: Any) -> Any:
        if holds_proxy((args, kwargs)):
            return tracer.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    return record


def _homes(functions: Collection[Function], model: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield the namespaces of all modules of the packages that the model's classes and the functions come from."""
    homes = {type(module).__module__ for module in model.modules()} | {function.__module__ for function in functions}
    packages = {home.partition(".")[0] for home in homes} - _OURS
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in packages and isinstance(module, ModuleType):
            yield vars(module)


def _frames(error: BaseException) -> list[FrameType]:
    frames, traceback = [], error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames


def _self(frame: FrameType) -> Any:
    return frame.f_locals.get("self")


def _function_of(frame: FrameType, *, parameters: bool = True) -> Function | None:
    """Return the function that runs in `frame`, if a graph can call it as it was called.

    Args:
        frame: The frame.
        parameters: Whether it may be given parameters, which no longer grow then.
    """
    function, code = frame.f_globals.get(frame.f_code.co_name), frame.f_code
    home = str(frame.f_globals.get("__name__")).split(".")
    if home[0] in _OURS or not _runs(function, code):
        return None
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    count += bool(code.co_flags & inspect.CO_VARKEYWORDS)
    values = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
    if not parameters and any(isinstance(value, nn.Parameter) for value in _items(values)):
        return None
    return function if holds_proxy(values) and not _holds_code(values) else None


def _runs(function: object, code: CodeType) -> bool:
    """Say whether `function`, or what it decorates, runs `code`, and not as a generator."""
    inner = inspect.unwrap(function) if isinstance(function, FunctionType) else None
    return isinstance(inner, FunctionType) and inner.__code__ is code and not inspect.isgeneratorfunction(inner)


def _holds_code(value: Any) -> bool:
    return any(callable(item) and not isinstance(item, fx.Proxy | type) for item in _items(value))


def _items(value: Any) -> list[Any]:
    found: list[Any] = []
    map_aggregate(value, found.append)
    return found
