"""Methods of a model, called on its graph, and refused where the graph would not follow."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from fxgrow.errors import FxgrowError, TraceError

#: the GraphModule of which a method is running, and the method's name
_running: ContextVar[tuple[nn.Module, str] | None] = ContextVar("running", default=None)
_NOTE = (
    "fxgrow: {method} ran on the graph of a model. What is inside a graph has the parameters and names of the model's "
    "modules, and not their attributes and methods; call {method} on the model, and trace the model after that."
)


def followed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return `method`, of the class of a model, in a form for GraphModules.

    A graph computes as a whole. A module of it that is called by itself leaves out what was inserted around it, and
    what calls one is refused, as is what sets an attribute (`refuse_to_set`). Any other error stays what it is, which
    libraries may expect, with a note: it may blame the model for what only its graph lacks.
    """

    @functools.wraps(method)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        outermost, token = _running.get() is None, _running.set((self, method.__name__))
        try:
            with _computing_as_a_whole(self, method.__name__):
                return method(self, *args, **kwargs)
        except Exception as error:
            if outermost and not isinstance(error, FxgrowError):
                error.add_note(_NOTE.format(method=method.__name__))
            raise
        finally:
            _running.reset(token)

    return call


def refuse_to_set(graph_module: nn.Module, name: str) -> None:
    """Refuse to set an attribute from inside a method of the model: the graph does not read it.

    Raises:
        TraceError: If such a method of `graph_module` is running.
    """
    running = _running.get()
    if running is not None and running[0] is graph_module:
        raise _refusal(graph_module, f"its {running[1]} sets {name}, which a graph does not read")


@contextmanager
def _computing_as_a_whole(whole: nn.Module, name: str) -> Iterator[None]:
    """Refuse calls of modules in `whole` that are not part of a call of itself."""
    parts = {module: path for path, module in whole.named_modules() if path}
    calls: list[nn.Module] = []

    def before(module: nn.Module, args: Any) -> None:
        if module is whole:
            calls.append(module)
        elif module in parts and not calls:
            raise _refusal(whole, f"its {name} calls {parts[module]} by itself, without what a graph has around it")

    def after(module: nn.Module, args: Any, result: Any) -> None:
        if module is whole:
            calls.pop()

    hooks = register_module_forward_pre_hook(before), register_module_forward_hook(after, always_call=True)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _refusal(graph_module: nn.Module, what: str) -> TraceError:
    return TraceError(
        what, where=type(graph_module).__name__, fix="call it on the model, and trace the model after that"
    )
