"""What a graph asserts of its inputs, where tracing took them for what the example inputs are."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx

from fxgrow.tracing.arguments import Argument

_PAIRS = ((operator.eq, operator.ne), (operator.lt, operator.ge), (operator.le, operator.gt))
_OPPOSITES: dict[Any, Callable[..., Any]] = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}


def assert_equal(proxy: fx.Proxy, value: Any, message: str, *, of_tensor: bool) -> None:
    """Have the graph assert that a number, size, type or condition is `value`.

    Where it is no tensor (`of_tensor`), by the operator that torch.compile keeps for the run if a size comes from data:
    of ``torch._assert`` it wants to know at once what comes out, and it cannot compare such a condition with True.
    """
    if value is True:
        holds = proxy
    elif value is False:
        holds = _opposite(proxy)
    else:
        holds = _recorded(operator.eq, proxy, value)
    _recorded(torch._assert if of_tensor else torch.ops.aten._assert_scalar.default, holds, message)


def _opposite(proxy: fx.Proxy) -> fx.Proxy:
    """Negate a condition; a comparison by its opposite, since ``not`` has torch.compile ask what a condition is."""
    node = proxy.node
    compare = _OPPOSITES.get(node.target) if node.op == "call_function" else None
    if compare is None:
        return _recorded(operator.not_, proxy)
    made: fx.Node = proxy.tracer.create_node("call_function", compare, node.args, {})
    return fx.Proxy(made, proxy.tracer)


def assert_as_given(argument: Argument, proxy: fx.Proxy) -> None:
    """Have the graph assert that an argument has its fixed value, or that a tensor is given where one must be."""
    if argument.fixed and argument.spelled:
        compare = operator.is_ if argument.value is None else operator.eq
        holds = _recorded(compare, proxy, argument.value)
        _recorded(torch._assert, holds, f"{argument.name} is fixed at {argument.value!r} in this graph")
    elif not argument.fixed and proxy.node.args:
        _recorded(torch._assert, _recorded(operator.is_not, proxy, None), f"{argument.name} must be given")


def _recorded(function: Callable[..., Any], proxy: fx.Proxy, *others: Any) -> fx.Proxy:
    made: fx.Proxy = proxy.tracer.create_proxy("call_function", function, (proxy, *others), {})
    return made
