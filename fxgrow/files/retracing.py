"""Trace a base model again as it was traced when its file was written."""

import copy
import inspect
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.errors import FileError, FxgrowError, first_line
from fxgrow.files.table import InputSpec, Table


def trace_again(base: nn.Module, table: Table, where: str) -> fx.GraphModule:
    """Return the graph of a copy of `base`: by the door that the file's model came through.

    Args:
        base: The model, or a GraphModule of it.
        table: What the file says: without a trace policy the model came from plain `torch.fx.symbolic_trace`, and a
            GraphModule is taken as it is.
        where: The file, for errors.

    Raises:
        FileError: If the model cannot be traced so.
    """
    base = copy.deepcopy(base).cpu()
    try:
        if not table.record.trace_policy:
            return base if isinstance(base, fx.GraphModule) else fx.symbolic_trace(base)
        from fxgrow.tracing import retrace

        inputs = example_inputs(table, base)
        return retrace(_in_dtype_of(base, inputs), inputs, table.record.trace_policy)
    except FxgrowError as error:
        raise FileError(
            f"its base cannot be traced ({error})", where=where, fix="give the model that was traced"
        ) from error
    except Exception as error:  # symbolic_trace runs the model's own forward
        what = f"its base cannot be traced ({type(error).__name__}: {first_line(error)[:100]})"
        raise FileError(what, where=where, fix="give the model that was traced") from error


def example_inputs(table: Table, model: nn.Module) -> dict[str, Any] | tuple[Any, ...]:
    """Return random inputs of the shapes and dtypes with which a model was traced; the global state is untouched.

    They go by keyword, as the placeholders are named, or by position where forward has ``*args``.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = {spec.name: _build(spec.value, spec, generator) for spec in table.inputs}
    try:
        inspect.signature(model.forward).bind(**inputs)
    except TypeError:
        return tuple(inputs.values())
    return inputs


def _build(value: Any, spec: InputSpec, generator: torch.Generator) -> Any:
    if isinstance(value, dict) and set(value) == {"shape", "dtype"}:
        return _random(tuple(value["shape"]), getattr(torch, value["dtype"]), spec, generator)
    if isinstance(value, dict):
        return {key: _build(item, spec, generator) for key, item in value.items()}
    return tuple(_build(item, spec, generator) for item in value) if isinstance(value, list) else value


def _random(shape: tuple[int, ...], dtype: torch.dtype, spec: InputSpec, generator: torch.Generator) -> Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, dtype=torch.promote_types(dtype, torch.float32), generator=generator).to(dtype)
    low, high = spec.integers or (0, 1)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)


def _in_dtype_of(base: nn.Module, inputs: dict[str, Any] | tuple[Any, ...]) -> nn.Module:
    """Cast a model to the dtype of its floating-point inputs, in which it was traced."""
    values = inputs.values() if isinstance(inputs, dict) else inputs
    dtypes = [value.dtype for value in values if isinstance(value, Tensor) and value.dtype.is_floating_point]
    return base.to(dtypes[0]) if dtypes else base
