"""Looking at a node while it runs on fake tensors: the operations of torch that it calls, and what they say."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from fxgrow.execution.fake_execution import Borrowed, FakeExecution
from fxgrow.execution.randomness import preserved_randomness, random_state
from fxgrow.execution.structures import flatten
from fxgrow.graph.operation import Operation, any_of
from fxgrow.graph.unseen import draws, is_pointwise, operation_name

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


class Observer:
    """Runs single nodes of a graph, each in train and in eval mode."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.executions = [_ObservedExecution(graph_module, training=training) for training in (False, True)]

    def observe(self, node: fx.Node) -> Operation:
        """Return what `node` does.

        Raises:
            ShapeError: If it does not run on the shapes of its inputs in one of the modes.
        """
        with preserved_randomness():
            return any_of([execution.observe(node) for execution in self.executions])


class _ObservedExecution(FakeExecution):
    """Looks at the node that it evaluates; what it needs for that is evaluated as always."""

    def observe(self, node: fx.Node) -> Operation:
        self.env.clear()  # a node before may have written to its inputs
        for value in node.all_input_nodes:
            if "tensor_meta" not in value.meta:
                self.compute_with_inputs(value)
        self.observed: Operation | None = None
        random = random_state()
        self.compute(node)
        assert self.observed is not None
        drew = random_state() != random  # by Python or numpy, of which torch knows nothing
        return replace(self.observed, draws=self.observed.draws or drew)

    def _steady(self, node: fx.Node) -> AbstractContextManager[None]:
        return nullcontext()  # what it draws is looked at, and put back by the observer

    def _evaluate(self, node: fx.Node, inputs: Mapping[fx.Node, Any], borrowed: Borrowed) -> Any:
        with borrowed(str(node.target)) if node.op == "call_module" else nullcontext(nn.Module()) as module:
            watch, before = _Watch(), _attributes(module)
            # Below autograd, in inference mode, torch shows operations such as reshape before it takes them apart.
            with torch.inference_mode(), watch:
                result = super()._evaluate(node, inputs, lambda _: nullcontext(module))
            moved = {name for name, value in _attributes(module).items() if before.get(name, _ABSENT) != value}
            self.observed = watch.operation(list(inputs.values()), dict(_state(module)), result, moved)
        return result


_ABSENT = object()


class _Watch(TorchDispatchMode):
    """Notes the operations that are called, whole and in parts."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read: set[int] = set()  # storages, as `_storages` names them
        self.written: set[int] = set()
        self.shown: dict[int, set[int]] = defaultdict(set)  # storages whose memory a storage may be
        self.draws, self.pointwise = False, True
        self.calls: set[str] = set()
        self.alive: list[Any] = []  # or a storage that is let go could give its name to another one

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # asks for a device
            return func(*args, **kwargs)
        result = NotImplemented
        if func.has_kernel_for_dispatch_key(_COMPOSITE):
            with self:
                result = func.decompose(*args, **kwargs)
        whole = result is not NotImplemented
        if not whole:
            result = func(*args, **kwargs)
        self._note(func, args, kwargs, result, whole)
        return result

    def _note(self, func: OpOverload, args: Any, kwargs: Any, result: Any, whole: bool) -> None:
        self.alive += (args, kwargs, result)
        self.calls.add(operation_name(func))
        self.draws |= draws(func, args, kwargs)
        if not whole:
            self.read |= set(_storages((args, kwargs)))
            self.pointwise &= is_pointwise(func)
        schema = func._schema
        returns_a_view = any(value.alias_info for value in schema.returns)
        for index, argument in enumerate(schema.arguments):
            given = args[index] if index < len(args) else kwargs.get(argument.name)
            if argument.alias_info is None or given is None:
                continue
            if argument.alias_info.is_write:
                self.written |= set(_storages(given))
            if returns_a_view:
                for storage in _storages(result):
                    self.shown[storage] |= set(_storages(given))

    def operation(self, inputs: list[Any], state: Mapping[str, Tensor], result: Any, moved: Iterable[str]) -> Operation:
        """Return what was seen in terms of a node's inputs and of the state of its module."""
        written, shown, read = self._behind(self.written), self._behind(set(_storages(result))), self.read
        owned = {name: set(_storages(tensor)) for name, tensor in state.items()}
        memory = [set(_storages(value)) for value in inputs]
        tensors = [tensor for _, tensor in flatten(result)]
        return Operation(
            reads=frozenset(place for place, own in enumerate(memory) if own & read),
            writes=frozenset(place for place, own in enumerate(memory) if own & written),
            shares=frozenset(place for place, own in enumerate(memory) if own & shown),
            shows_state=any(own & shown for own in owned.values()),
            moves=frozenset((*moved, *(name for name, own in owned.items() if own & written))),
            draws=self.draws,
            pointwise=self.pointwise and bool(read) and len(tensors) == 1 and tensors[0].is_floating_point(),
            calls=frozenset(self.calls),
        )

    def _behind(self, storages: set[int]) -> set[int]:
        """Return the storages whose memory these may be, themselves included."""
        found, pending = set(storages), list(storages)
        while pending:  # each storage is put in once
            more = self.shown.get(pending.pop(), set()) - found
            found |= more
            pending.extend(more)
        return found


def _storages(value: Any) -> Iterator[int]:
    """Yield what tells the storages of the tensors in a structure apart."""
    for _, tensor in flatten(value):
        try:
            yield tensor.untyped_storage()._cdata
        except (NotImplementedError, RuntimeError):  # a sparse tensor has none
            yield id(tensor)


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _attributes(module: nn.Module) -> dict[str, object]:
    """Return what tells whether a module replaced a buffer, set an attribute or filled a list."""
    found: dict[str, object] = {}
    for path, inner in module.named_modules():
        for name, value in {**vars(inner), **inner._parameters, **inner._buffers}.items():
            if name not in ("_parameters", "_buffers", "_modules", "training"):
                found[f"{path}.{name}".lstrip(".")] = (id(value), _contents(value))
    return found


def _contents(value: object) -> object:
    if isinstance(value, dict):
        return [(key, id(item)) for key, item in value.items()]
    return [id(item) for item in value] if isinstance(value, list | set) else None
