"""The state of models at one moment, and the way back to it."""

import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_Restore = Callable[[], object]
#: never looked into: they hold no state of a model, or far more than that
_CLOSED = (fx.Proxy, type, FunctionType, BuiltinFunctionType, ModuleType, str, bytes, int, float, complex, type(None))
#: the most frequent of them, told by their type alone: most attributes of a module are one of these
_PLAIN = frozenset({FunctionType, BuiltinFunctionType, type, str, bool, int, float, type(None)})
#: containers that can be told by their type alone; nearly all that a module holds are empty ones, for its hooks
_CONTAINERS = frozenset({dict, OrderedDict, list, set})


class Snapshot:
    """The state of `modules`, and of what they hold, copied; parameters and buffers too, as models write to themselves.

    It consists of: train and eval mode; the values of tensors, their ``requires_grad`` and ``.grad``, and which tensors
    they are; attributes and hooks; what lies in lists, dicts and sets, and in the attributes of objects that a module
    holds; arrays and random generators held there. Objects held by such objects are not looked into.

    Modes are set back as they were, not by ``.train()``, in which a module may do work such as merging weights.
    """

    def __init__(self, modules: Iterable[nn.Module], *, values: bool = True) -> None:
        self._copies_values = values
        self._seen: dict[int, object] = {}  # keeps what it has seen alive, so that no address is used twice
        self._restores: list[_Restore] = []
        self._empty: list[Any] = []
        for module in modules:
            self._visit(module)

    def restore(self) -> None:
        """Put everything back that is not as it was."""
        for container in self._empty:
            if container:
                container.clear()
        for restore in self._restores:
            restore()

    def _visit(self, value: Any, *, into_objects: bool = False) -> None:
        if isinstance(value, _CLOSED) or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, nn.Module):
            self._visit_module(value)
        elif isinstance(value, Tensor):
            self._visit_tensor(value)
        elif isinstance(value, MethodType):
            self._visit(value.__self__, into_objects=into_objects)
        elif (contents := _contents(value)) is not None:
            self._visit_contents(value, contents, into_objects=into_objects)
        elif (restore := _rewind(value)) is not None:
            self._restores.append(restore)
        elif into_objects and hasattr(value, "__dict__"):
            self._visit_contents(value.__dict__, dict(value.__dict__), into_objects=False)
        else:
            del self._seen[id(value)]  # it may be met again where it is looked into

    def _visit_contents(self, value: Any, contents: Any, *, into_objects: bool) -> None:
        for item in contents.values() if isinstance(contents, dict) else contents:
            kind = type(item)
            if kind in _CONTAINERS and not item:
                self._empty.append(item)
            elif kind not in _PLAIN:
                self._visit(item, into_objects=into_objects)
        self._restores.append(partial(_refill, value, contents))

    def _visit_module(self, module: nn.Module) -> None:
        self._visit_contents(module.__dict__, dict(module.__dict__), into_objects=True)
        # a scripted module keeps its parts outside Python, and its mode
        for part in (*module.parameters(recurse=False), *module.buffers(recurse=False), *module.children()):
            self._visit(part)
        training = module.training

        def restore() -> None:
            if module.training is not training:
                module.training = training

        self._restores.append(restore)

    def _visit_tensor(self, tensor: Tensor) -> None:
        if tensor.is_leaf:
            self._restores.append(_leaf_state(tensor))
            self._visit(tensor.grad)
        for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            hooks = dict(getattr(tensor, name, None) or {})
            self._restores.append(partial(_refill_hooks, tensor, name, hooks))
        if self._copies_values and not (tensor.is_meta or is_lazy(tensor)):
            self._restores.append(_values(tensor))


def _leaf_state(tensor: Tensor) -> _Restore:
    requires_grad, gradient = tensor.requires_grad, tensor.grad

    def restore() -> None:
        if tensor.requires_grad is not requires_grad:
            tensor.requires_grad_(requires_grad)
        if tensor.grad is not gradient:
            tensor.grad = gradient

    return restore


def _refill_hooks(tensor: Tensor, name: str, contents: dict[int, object]) -> None:
    hooks = getattr(tensor, name, None)
    if hooks is not None:  # there is no dict before the first hook, and none would come back by setting it to None
        _refill(hooks, contents)


def _values(tensor: Tensor) -> _Restore:
    """Copy values; put back go both they and the memory in which they lay, behind the back of version counters."""
    memory, copy = tensor.data, tensor.data.clone()

    def restore() -> None:
        if tensor.layout != torch.strided or memory.layout != torch.strided:
            tensor.data = copy
            return
        if _geometry(tensor) != _geometry(memory):
            tensor.data = memory
        if not torch.equal(memory, copy):  # by value: native BatchNorm moves its statistics without raising versions
            with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                memory.copy_(copy)

    return restore


def _geometry(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _contents(value: Any) -> Any:
    """Return a copy of a container's items, in a plain dict or list; None for what is no container."""
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, list | set | deque) else None


def _refill(value: Any, contents: Any) -> None:
    """Let a container hold `contents` again. Nothing is touched where it does, or what classes made of it overrides."""
    if not value and not contents:
        return
    if isinstance(value, dict):
        if list(value) == list(contents) and all(value[key] is item for key, item in contents.items()):
            return
        kind: Any = OrderedDict if isinstance(value, OrderedDict) else dict
        kind.clear(value)
        for key, item in contents.items():
            kind.__setitem__(value, key, item)
    elif len(value) != len(contents) or any(a is not b for a, b in zip(value, contents, strict=True)):
        value.clear()
        value.update(contents) if isinstance(value, set) else value.extend(contents)


def _rewind(value: Any) -> _Restore | None:
    """Return what puts back the state of a random generator or the numbers of an array; None for anything else."""
    numpy = sys.modules.get("numpy")
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    if numpy and isinstance(value, numpy.random.RandomState):
        return partial(value.set_state, value.get_state())
    if numpy and isinstance(value, numpy.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if numpy and isinstance(value, numpy.ndarray):
        return partial(numpy.copyto, value, value.copy())
    return None
