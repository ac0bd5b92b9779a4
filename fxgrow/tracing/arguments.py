"""How the model is called: example inputs matched with the parameters of its forward."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxgrow.errors import TraceError
from fxgrow.execution.structures import batch_size_of, resized


@dataclass(frozen=True)
class Argument:
    """One value that the caller passes, with the name that its placeholder gets."""

    name: str
    value: Any

    @property
    def fixed(self) -> bool:
        """Whether the value holds no tensor, so that tracing fixes it."""
        return not holds_tensor(self.value)


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

    def at_two_batch_sizes(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the inputs as they are, and with one more in the batch; twice the same where there is no batch."""
        size = batch_size_of(self.inputs)
        return self.inputs, resized(self.inputs, size + 1) if size else self.inputs


def bind_call(model: nn.Module, example_inputs: Any) -> Call:
    """Match a tensor, a tuple of positional or a dict of keyword inputs with the signature of the model's forward.

    Raises:
        TraceError: If forward cannot be called with them.
    """
    signature = inspect.signature(model.forward)
    try:
        if isinstance(example_inputs, Mapping):
            bound = signature.bind(**example_inputs)
        else:
            values = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
            bound = signature.bind(*values)
    except TypeError as error:
        fix = (
            f"call it as forward{signature}; a dict gives inputs by keyword, and ({{...}},) is one input that is a dict"
        )
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


def holds_tensor(value: Any) -> bool:
    """Say whether `value` is a tensor, or a tuple, list or dict with one in it."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return any(holds_tensor(item) for item in value)
    return isinstance(value, Tensor)


def mirror(value: Any, proxy: Any, getitem: Callable[[Any, Any], Any]) -> Any:
    """Return a structure like `value` whose tensors are items of `proxy`, so that forward may look into it."""
    if isinstance(value, Tensor):
        return proxy
    if not holds_tensor(value):
        return value
    if isinstance(value, Mapping):
        items = {key: mirror(item, getitem(proxy, key), getitem) for key, item in value.items()}
        return type(value)(items) if type(value) is not dict else items  # type: ignore[call-arg]
    items_list = [mirror(item, getitem(proxy, index), getitem) for index, item in enumerate(value)]
    return type(value)(*items_list) if hasattr(value, "_fields") else type(value)(items_list)
