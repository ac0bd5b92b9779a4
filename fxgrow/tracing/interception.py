"""What torch.fx does not see while a model is traced, caught so that nothing escapes the tracer without a word.

None of it leaves a trace on the process. What torch dispatches is caught by a mode. The little that it does not
dispatch is replaced, by torch.fx's own patcher, only while a forward is recorded: it is back in its place while modules
are imported or run for their shapes (`fxgrow.tracing.untraced`), so that nobody else can get hold of a replacement.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch.fx import _symbolic_trace
from torch.overrides import TorchFunctionMode

from fxgrow.execution.fast_paths import without_fast_paths
from fxgrow.tracing.attention import replace_mask_checks, written_out
from fxgrow.tracing.autograd_functions import replace_function_forwards
from fxgrow.tracing.proxies import holds_proxy
from fxgrow.tracing.untraced import untraced_imports

if TYPE_CHECKING:
    from fxgrow.tracing.tracer import ModelTracer

#: functions and classes of torch that take sizes, dtypes and devices, and know no proxy in their place
_FACTORIES = (
    "arange", "empty", "finfo", "full", "iinfo", "linspace", "ones", "rand", "randint", "randn", "randperm", "zeros",
)  # fmt: skip


@contextmanager
def interception(tracer: "ModelTracer") -> Iterator[None]:
    """Surround a trace with what shall see, and change, what its forward does.

    1. What nn.MultiheadAttention computes is recorded operation by operation, and without the shortcuts that it and
       nn.TransformerEncoder look for in eval mode.
    2. Functions that torchvision's models keep from tracing for their control flow on sizes are traced.
    3. Modules that are imported meanwhile run as if nothing were traced.
    """
    with ExitStack() as stack:
        stack.enter_context(untraced_imports())
        stack.enter_context(without_fast_paths())
        stack.enter_context(_traceable_torchvision())
        stack.enter_context(_Mode(tracer))
        yield


def replace_in_torch(tracer: "ModelTracer") -> None:
    """Let the present trace, until its end, see what torch does not dispatch.

    1. Factories, as ``torch.zeros(x.shape[0])``, are recorded where an argument comes from the inputs.
    2. Conditions on sizes that torch._check demands are decided, as in an ``if``.
    3. Contexts of torch.autocast for the device of an input can be built; that one is entered is reported then.
    4. Masks of attention that are proxies are accepted.
    5. Calls of an autograd function are recorded as what they are.
    """
    patcher = _symbolic_trace.CURRENT_PATCHER
    assert patcher is not None
    for name in _FACTORIES:
        patcher.patch(vars(torch), name, _recording(tracer, getattr(torch, name)), deduplicate=False)
    patcher.patch(vars(torch), "_check_with", _deciding(torch._check_with), deduplicate=False)
    patcher.patch_method(torch.autocast, "__init__", _on_any_device(torch.autocast.__init__), deduplicate=False)
    replace_mask_checks(patcher)
    replace_function_forwards(tracer)


class _Mode(TorchFunctionMode):
    """Sees every function of torch that dispatches, whatever name it was imported under."""

    def __init__(self, tracer: "ModelTracer") -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled and not self.tracer.values.computing:
            self.tracer.records_gradients = args[0]
        if func is F.multi_head_attention_forward and holds_proxy((args, kwargs)):
            func = written_out(cast(FunctionType, func))
        return func(*args, **kwargs)


def contexts() -> tuple[int, object]:
    """Return what tells whether autocast and hooks on saved tensors were entered since: their depth, and themselves.

    Autocast that is entered to switch it off counts. Activation checkpointing and offloading are such hooks.
    """
    depth = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return depth, torch._C._autograd._top_saved_tensors_default_hooks(False)


def _recording(tracer: "ModelTracer", original: Callable[..., Any]) -> Callable[..., Any]:
    def factory(*args: Any, **kwargs: Any) -> Any:
        if not holds_proxy((args, kwargs)):
            return original(*args, **kwargs)
        return tracer.create_proxy("call_function", original, args, kwargs)

    if not isinstance(original, type):
        return factory
    return _RecordingClass(original.__name__, (), {"original": original, "record": staticmethod(factory)})


class _RecordingClass(type):
    """The class of what stands in for a class: calls are recorded, and its instances are those of the original."""

    original: type
    record: Callable[..., Any]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.record(*args, **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.original)


def _deciding(original: Callable[..., Any]) -> Callable[..., Any]:
    def check(error_type: Any, condition: Any, message: Any) -> None:
        original(error_type, bool(condition) if isinstance(condition, fx.Proxy) else condition, message)

    return check


def _on_any_device(original: Callable[..., Any]) -> Callable[..., Any]:
    def build(context: torch.autocast, device_type: Any, *args: Any, **kwargs: Any) -> None:
        original(context, "cpu" if isinstance(device_type, fx.Proxy) else device_type, *args, **kwargs)

    return build


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
