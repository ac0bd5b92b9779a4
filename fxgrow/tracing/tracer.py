"""The tracer: torch.fx's own, which also watches what tracing would change without a word."""

import math
import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import is_dataclass
from functools import cached_property
from types import MethodWrapperType
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.fx._symbolic_trace import _orig_module_call

from fxgrow.execution.randomness import random_state
from fxgrow.primitives.unwrapping import bare
from fxgrow.tracing.arguments import Call, mirror
from fxgrow.tracing.assertions import assert_as_given, assert_equal
from fxgrow.tracing.attention import PADDING, writes_over_padding
from fxgrow.tracing.autograd_functions import CHECKPOINTING
from fxgrow.tracing.calls import ModuleCall, Opaque, drop_unread
from fxgrow.tracing.functions import Function, calling_function, is_einops_layer, recorded, untraceable_functions
from fxgrow.tracing.interception import contexts, interception, replace_in_torch
from fxgrow.tracing.leaves import COMPOSITES, is_closed, untraceable_classes
from fxgrow.tracing.obstacles import obstacle, watched_hooks
from fxgrow.tracing.proxies import holds_proxy, is_own_dict, proxy_of
from fxgrow.tracing.values import IntegerFromDataError, UnknownValueError, Values

#: written on nodes that were recorded under torch.no_grad
NO_GRAD = "fxgrow_no_grad"


class ModelTracer(fx.Tracer):
    """Records the forward of a model, called in one way.

    Args:
        call: How the model is called.
        leaves: Paths of modules that stay whole, beside the atoms of torch.nn and those that follow ``.train()``.
        functions: Functions that are kept as one node, beside those that always are.
        fix_integers: Whether whole numbers that follow from the values of integer inputs are fixed, and asserted.

    Attributes:
        calls: The stack of open module calls, outermost (the model) first; the whole tree when tracing is over.
        findings: Modules inside which tracing changed the meaning.
        notes: What was dropped without changing the function, in sentences.
        callers: For each node the function, outside of any module, in which it was recorded.
    """

    def __init__(
        self,
        call: Call,
        leaves: Collection[str],
        functions: Collection[Function] = (),
        *,
        fix_integers: bool = False,
    ) -> None:
        super().__init__(autowrap_modules=(math,))
        self.proxy_buffer_attributes = True  # or what forward computes from a buffer would be a constant
        self.call, self.fix_integers = call, fix_integers
        self.leaves = frozenset(leaves)
        self.functions = (*untraceable_functions(), *functions)
        self.leaf_classes = untraceable_classes()
        self.calls = [ModuleCall("")]
        self.findings: list[Opaque] = []
        self.notes: list[str] = []
        self.callers: dict[fx.Node, Function | None] = {}
        self.decided: dict[fx.Node, Any] = {}
        self.obstacles: dict[nn.Module, str | None] = {}
        self.records_gradients = True  # what torch.no_grad says; inside an autograd function torch itself says no

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say whether `m` stays whole."""
        closed = is_closed(m) or is_einops_layer(m)
        if closed or module_qualified_name in self.leaves or isinstance(m, self.leaf_classes):
            return True
        return not isinstance(m, COMPOSITES) and super().is_leaf_module(m, module_qualified_name)

    def record(self, model: nn.Module) -> fx.Graph:
        """Trace `model`."""
        with torch.enable_grad(), interception(self), recorded(self, self.functions, model):
            graph: fx.Graph = self._watched(lambda: super(ModelTracer, self).trace(model))
        graph._tracer_cls = fx.Tracer  # torch.fx builds one without arguments where a GraphModule is unpickled
        self.calls[0].result = graph.output_node().args[0]
        self.calls[0].forget(drop_unread(graph, model))
        return graph

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Create a placeholder for each argument that the caller passes; others keep their defaults."""
        proxies = self._placeholders()

        def forward(root: nn.Module, *values: Any) -> Any:
            mirrored = {
                argument.name: mirror(argument.value, value)
                for argument, value in zip(self.call.arguments, values, strict=True)
            }
            args, kwargs = self.call.with_values(mirrored)
            replace_in_torch(self)
            with watched_hooks(root, self.find):  # the model's own hooks are part of what it computes
                return _orig_module_call(root, *args, **kwargs)

        return forward, [self.root, *proxies]

    def proxy(self, node: fx.Node) -> Any:
        """Wrap a node in a proxy of the kind of its value."""
        return proxy_of(node, self, self.values.example(node))

    def create_proxy(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Record an operation; what it returns for the example inputs is None itself where it is None."""
        proxy = super().create_proxy(kind, target, *args, **kwargs)
        nothing = kind.startswith("call") and target is not getattr  # torch.fx asks that one's proxy for its node
        return None if nothing and self.values.example(proxy.node) is None else proxy

    def create_arg(self, a: Any) -> Any:
        """Return what stands for a value in the graph.

        A proxy is taken for its node, though it may be a tensor, and an output of Hugging Face's, an OrderedDict or the
        like for a call of its class, though it is a dict too.
        """
        if isinstance(a, fx.Proxy):
            return a.node
        if isinstance(a, dict) and is_dataclass(a):
            given = {name: value for name, value in a.items() if value is not None}
            return self.create_node("call_function", type(a), (), self.create_arg(given))
        if is_own_dict(a) and holds_proxy(a):
            return self.create_node("call_function", type(a), (self.create_arg(dict(a)),), {})
        return super().create_arg(a)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Decide a branch on a size; a size or a tuple of them may differ with the batch if it is never nothing."""
        if not isinstance(self.values.example(obj.node), bool | Tensor):
            obj = self.create_proxy("call_function", operator.truth, (obj,), {})
        return bool(self.decide(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Iterate over a tuple, or the leading dimension of a tensor, if its length does not depend on the batch."""
        return iter([obj[index] for index in range(self.values.length(obj.node))])  # type: ignore[index]

    def length(self, value: Any) -> Any:
        """Return ``len(value)``; of a tensor, where it is the size of the batch, what that is when the graph runs."""
        try:
            return len(value)
        except UnknownValueError:
            return value.size(0)

    def decide(self, proxy: fx.Proxy) -> Any:
        """Return what a size is for the example inputs, and have the graph assert that it is this.

        Raises:
            UnknownValueError: If it is no size, or depends on the batch.
        """
        node = proxy.node
        if node not in self.decided:
            value = self.decided[node] = self._value(node)
            if self.values.asks_for_gradients(node):  # it may be another one where the graph is used
                self.note("branches on whether gradients are recorded take the side of training")
                return value
            message = "this graph was traced for inputs of another size, type or number"
            assert_equal(proxy, value, message, of_tensor=isinstance(self.values.example(node), Tensor))
        return self.decided[node]

    def _value(self, node: fx.Node) -> Any:
        try:
            return self.values.value(node)
        except IntegerFromDataError as error:
            if not self.fix_integers:
                raise
            self.note(f"a whole number is fixed, and asserted, though {error}")
            return self.values.integer(node)

    @cached_property
    def values(self) -> Values:
        """What follows from the shapes of the example inputs."""
        return Values(self.root, self.graph, self.call)

    def _placeholders(self) -> list[Any]:
        """Create a placeholder for each argument; behind one with a default, Python wants a default of each."""
        proxies, defaults = [], False
        for argument in self.call.arguments:
            defaults = defaults or argument.fixed
            default = argument.value if argument.fixed and argument.spelled else None
            proxies.append(self.create_proxy("placeholder", argument.name, (default,) if defaults else (), {}))
        for argument, proxy in zip(self.call.arguments, proxies, strict=True):
            assert_as_given(argument, proxy)
        return proxies

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a call of `m`, or what it does if it is no leaf."""
        if self.values.computing:
            return forward(*args, **kwargs)
        inner = bare(m)
        if inner is not m:
            return inner(*args, **kwargs)
        if m not in (self.submodule_paths or {}):
            return self._call_made(m, forward, args, kwargs)
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        self._find_obstacles(m, (*self.stack, path))
        if writes_over_padding(m) and holds_proxy((args[2:], kwargs.get("src_key_padding_mask"))):
            self.note(PADDING)
        call = ModuleCall(path)
        self.calls[-1].children.append(call)
        self.calls.append(call)  # stays there if an error ends the trace, to tell where it was raised
        with watched_hooks(m, self.find):
            call.result = self._watched(lambda: super(ModelTracer, self).call_module(m, forward, args, kwargs))
        self.calls.pop()
        return call.result

    def _call_made(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record what a module does that forward itself has made, as a loss: the graph has no such module to call."""
        if m.state_dict():
            raise UnknownValueError(f"its forward makes a {type(m).__name__}, which has a state of its own")
        return forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return an attribute of a module, or the proxy of a parameter or buffer."""
        return attr_val if self.values.computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def _find_obstacles(self, module: nn.Module, stack: tuple[str, ...]) -> None:
        if module not in self.obstacles:
            self.obstacles[module] = obstacle(module)
        reason = self.obstacles[module]
        if reason is not None:
            self.find(reason, stack)

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: Any = None, type_expr: Any = None
    ) -> fx.Node:
        """Record a node, and whether gradients are switched off there."""
        if isinstance(target, MethodWrapperType):  # the setter of an attribute, as in ``weight.data = ...``
            name = getattr(target.__self__, "__name__", "an attribute")
            raise TypeError(f"sets {name} of a tensor, which a graph does not record")
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if not self.records_gradients or torch.is_inference_mode_enabled():
            node.meta[NO_GRAD] = True
        self._look_around()
        self.calls[-1].children.append(node)
        self.callers[node] = calling_function()
        return node

    def _look_around(self) -> None:
        """Report contexts that were entered since the trace began and that a graph does not record."""
        (depth, hooks), (outer_depth, outer_hooks) = contexts(), self.calls[0].contexts
        if depth != outer_depth:
            outside = [call.path for call in self.calls if call.contexts[0] == outer_depth]
            self.find("enters torch.autocast, which a graph does not record", tuple(outside[1:]))
        if hooks not in (None, outer_hooks):
            self.note(CHECKPOINTING)

    def find(self, reason: str, stack: tuple[str, ...] | None = None) -> None:
        """Note that a module must stay whole: the last of `stack`, or else that whose forward is running."""
        if self.values.computing:
            return
        finding = Opaque(self.stack if stack is None else stack, reason)
        if finding not in self.findings:
            self.findings.append(finding)

    def note(self, sentence: str) -> None:
        """Note something for the user, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    @property
    def stack(self) -> tuple[str, ...]:
        """Paths of the modules whose forwards are running, outermost first, without the model itself."""
        return tuple(call.path for call in self.calls[1:])

    @property
    def place(self) -> str:
        """Where the trace is, in words."""
        return self.stack[-1] if self.stack else "the model's own forward"

    def with_own_gradient_mode(self, run: Callable[[], Any]) -> Any:
        """Run something inside an autograd function, where torch has switched gradients off, as it is run outside."""
        outside = self.records_gradients
        with torch.set_grad_enabled(outside):
            result = run()
        self.records_gradients = outside
        return result

    def _watched(self, run: Callable[[], Any]) -> Any:
        known, before = len(self.findings), random_state()
        result = run()
        if len(self.findings) == known and random_state() != before:
            self.find("draws random numbers that tracing would turn into constants")
        return result
