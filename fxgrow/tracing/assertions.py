"""What a graph asserts of its inputs, where tracing took them for what the example inputs are."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.fx as fx

from fxgrow.tracing.arguments import Argument


def assert_equal(proxy: fx.Proxy, value: Any, message: str) -> None:
    """Have the graph assert that a number, size, type or condition is `value`."""
    _recorded(torch._assert, _recorded(operator.eq, proxy, value), message)


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
