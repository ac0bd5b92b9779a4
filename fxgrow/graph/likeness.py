"""What libraries read off a model, read off its graph: attributes that are data, and methods that compute nothing.

timm's optimizers ask a model for `no_weight_decay` and `group_matcher`, trainers for its `config`; a model that lacks
them is trained otherwise, without a word. Instead of a list of names there is a rule: what the model's class has and a
GraphModule has not is there too, and so is what the model itself holds, if it is data. Methods run on the GraphModule,
so that they see what has grown. One that a graph cannot follow is refused where it is called (`fxgrow.graph.followed`).
"""

import copy
import functools
import keyword
import sys
import warnings
import weakref
from collections.abc import Callable
from types import CellType, FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any

import torch.fx as fx
from torch import Tensor, nn

from fxgrow.errors import LostGrowthWarning, TraceError
from fxgrow.execution.structures import parts_of
from fxgrow.graph.followed import followed, refuse_to_set
from fxgrow.graph.state import adopt_state

_OF_GRAPH_MODULES = frozenset(vars(fx.GraphModule(nn.Module(), fx.Graph()))) | {"training"}
#: graphs of which others grew that are trained in their place, as long as that is so
_LEFT_BEHIND: weakref.WeakKeyDictionary[fx.GraphModule, Callable[[], bool]] = weakref.WeakKeyDictionary()
_IN_PLACE = "let one model grow in place (fxgrow.training.Growing and fxgrow.Grower, docs/trainers.md)"
_SLOTS = (MemberDescriptorType, GetSetDescriptorType)


class Likeness(fx.GraphModule):
    """A GraphModule that answers as a model of `model_class` does. There is a subclass of it for each such class."""

    model_class: type[nn.Module]

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_to_set(self, name)
        super().__setattr__(name, value)

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the state; with a warning where training has gone on with another graph, which grew of this one."""
        if self in _LEFT_BEHIND and _LEFT_BEHIND[self]():
            what = "this is the state of a model from before it grew, and training has gone on with what grew of it"
            warnings.warn(f"{what}; hold that, or {_IN_PLACE}", LostGrowthWarning, stacklevel=2)
        state: dict[str, Any] = super().state_dict(*args, **options)
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load the state; with a warning where it has all of this graph and more, which is dropped or refused."""
        own = {prefix + name for name in super().state_dict()}
        given = {name for name in state_dict if name.startswith(prefix)}
        if own < given:
            where = prefix.removesuffix(".") or type(self).__name__
            what = f"the state has {len(given) - len(own)} entries that this graph has not; where those are what grew"
            warnings.warn(
                f"{where}: {what}, {_IN_PLACE}: it becomes what a state says", LostGrowthWarning, stacklevel=2
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __deepcopy__(self, memo: dict[int, Any]) -> fx.GraphModule:
        copied = super().__deepcopy__(memo)
        vars(copied).update(copy.deepcopy(_data(self), memo))
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        function, arguments = super().__reduce__()
        if not _can_be_imported(self.model_class):
            return function, arguments
        return _unpickled, (self.model_class, function, arguments)


def graph_module_like(model: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Return a GraphModule that computes `graph` and is otherwise like `model`: its state, attributes and methods.

    Args:
        model: The model that `graph` was traced from, or another GraphModule of it. Parameters and leaves are shared.
        graph: The graph.

    Raises:
        TraceError: If a module has a name that torch.fx cannot write as code.
    """
    _refuse_unwritable(graph)
    if isinstance(model, fx.GraphModule):
        kind = _likeness(model.model_class) if isinstance(model, Likeness) else fx.GraphModule
    else:
        kind = _likeness(type(model))
    return _made(kind, model, graph)


def _refuse_unwritable(graph: fx.Graph) -> None:
    for node in graph.nodes:
        path = str(node.target) if node.op in ("call_module", "get_attr") else ""
        name = next((name for name in path.split(".") if keyword.iskeyword(name) or set(name) & set('"\\\n\r')), None)
        if name is not None:
            what = f"torch.fx writes the graph as Python, where {name!r} can be no attribute"
            raise TraceError(what, where=path, fix="give the module another name")


def leave_behind(graph_module: fx.GraphModule, still: Callable[[], bool]) -> None:
    """Note that training has gone on with another graph, which grew of this one, as long as `still` says so."""
    _LEFT_BEHIND[graph_module] = still


def _made(kind: type[fx.GraphModule], model: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    graph_module = kind(model, graph, type(model).__name__)
    adopt_state(model, graph_module)
    vars(graph_module).update(_data(model))
    return graph_module


def _unpickled(model_class: type[nn.Module], function: Callable[..., fx.GraphModule], arguments: Any) -> fx.GraphModule:
    plain = function(*arguments)
    return _made(_likeness(model_class), plain, plain.graph)


def _data(model: nn.Module) -> dict[str, Any]:
    """Return the attributes of a model that are data: what can be called or holds tensors belongs to its forward."""
    return {
        name: value
        for name, value in vars(model).items()
        if name not in _OF_GRAPH_MODULES and not name.startswith("__") and _is_data(value)
    }


def _is_data(value: Any) -> bool:
    parts = parts_of(value)
    if parts is None:
        return not callable(value) and not isinstance(value, Tensor)
    return all(map(_is_data, parts.values()))


def _likeness(model_class: type[nn.Module]) -> type[Likeness]:
    return _class_like(model_class)  # type: ignore[arg-type]  # a class is hashable, whatever its instances are


@functools.cache
def _class_like(model_class: Any) -> type[Likeness]:
    return type("Likeness", (Likeness, _beside_modules(model_class)), {"model_class": model_class})


@functools.cache
def _beside_modules(kind: Any) -> type:
    """Return a class with what `kind` has beside what makes it a module, and with such bases, as ``super()`` wants."""
    if issubclass(nn.Module, kind) or kind.__module__ == "builtins":
        return object
    bases = tuple(dict.fromkeys(map(_beside_modules, kind.__bases__)))
    itself = CellType()
    names = {
        name: _kept(value, itself)
        for name, value in vars(kind).items()
        if not name.startswith("__") and not isinstance(value, _SLOTS)
    }
    made = type(kind.__name__, tuple(base for base in bases if base is not object) or (object,), names)
    itself.cell_contents = made
    return made


def _kept(value: Any, itself: CellType) -> Any:
    """Return what stands for an attribute of a class; a method that says ``super()`` means the class `itself` then."""
    if not isinstance(value, FunctionType):
        return value
    cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    closure = tuple(itself if name == "__class__" else cell for name, cell in cells)
    method = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, closure)
    method.__kwdefaults__ = value.__kwdefaults__
    return followed(functools.update_wrapper(method, value))


def _can_be_imported(kind: type) -> bool:
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind
