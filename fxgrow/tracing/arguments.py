"""How the model is called: example inputs matched with the parameters of its forward."""

import enum
import inspect
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.errors import TraceError
from fxgrow.execution.calling import Inputs
from fxgrow.execution.structures import batch_size_of, by_attribute, holds_tensor, parts_of, resized, with_parts

#: what the code of a graph can spell, and compare with what it is given
_SPELLED = (bool, int, float, complex, str, enum.Enum, torch.dtype, torch.device, type(None))


@dataclass(frozen=True)
class Argument:
    """One value that the caller passes, with the name that its placeholder gets."""

    name: str
    value: Any

    @property
    def fixed(self) -> bool:
        """Whether the value holds no tensor, so that tracing fixes it."""
        return not holds_tensor(self.value)

    @property
    def spelled(self) -> bool:
        """Whether the code of a graph can spell the value."""
        return _is_spelled(self.value)


@dataclass(frozen=True)
class Call:
    """One way to call a model; parameters that the caller leaves out keep their defaults."""

    signature: inspect.Signature
    bound: inspect.BoundArguments
    arguments: tuple[Argument, ...]

    def with_values(self, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return ``args`` and ``kwargs`` for forward, with `values` in place of the arguments of these names."""
        bound = inspect.BoundArguments(self.signature, self.bound.arguments.copy())
        for name, value in bound.arguments.items():
            kind = self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(values[f"{name}_{index}"] for index in range(len(value)))
            elif kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: values[key] for key in value}
            else:
                bound.arguments[name] = values[name]
        return bound.args, bound.kwargs

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The values in the order of the placeholders."""
        return tuple(argument.value for argument in self.arguments)

    @property
    def policy(self) -> dict[str, list[str]]:
        """What a record must say so that the call can be made again."""
        objects = [argument.name for argument in self.arguments if argument.fixed and not argument.spelled]
        found = {"keywords": list(self.bound.kwargs), "objects": objects}
        return {name: names for name, names in found.items() if names}

    def at_two_batch_sizes(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the inputs as they are, and with one more in the batch; twice the same where there is no batch."""
        size = batch_size_of(self.inputs)
        return self.inputs, resized(self.inputs, size + 1) if size else self.inputs


def bind_call(model: nn.Module, example_inputs: Any) -> Call:
    """Match a tensor, a tuple of positional or a dict of named inputs with the signature of the model's forward.

    Raises:
        TraceError: If forward cannot be called with them.
    """
    inputs = Inputs.of(model, example_inputs)
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*inputs.args, **inputs.kwargs)
    except TypeError as error:
        fix = f"call it as forward{signature}; a dict gives inputs by name, and ({{...}},) is one input that is a dict"
        raise TraceError(
            f"the example inputs do not fit its forward: {error}", where=type(model).__name__, fix=fix
        ) from error
    arguments: list[Argument] = []
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            arguments += [Argument(f"{name}_{index}", item) for index, item in enumerate(value)]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            arguments += [Argument(key, item) for key, item in value.items()]
        else:
            arguments.append(Argument(name, value))
    return Call(signature, bound, tuple(arguments))


def mirror(value: Any, proxy: Any) -> Any:
    """Return a structure like `value` whose tensors are parts of `proxy`, so that forward may look into it."""
    if isinstance(value, Tensor):
        return proxy
    if not holds_tensor(value):
        return value
    part_of = getattr if by_attribute(value) else operator.getitem
    parts = parts_of(value) or {}
    return with_parts(value, {key: mirror(part, part_of(proxy, key)) for key, part in parts.items()})


def _is_spelled(value: Any) -> bool:
    if isinstance(value, tuple | list | dict):
        return all(map(_is_spelled, value.values() if isinstance(value, dict) else value))
    return isinstance(value, _SPELLED) and value == value  # not a number compares with nothing
