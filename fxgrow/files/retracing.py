"""Trace a base model again as it was traced when its file was written."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.errors import FileError, FxgrowError, first_line
from fxgrow.execution.calling import Inputs
from fxgrow.execution.structures import flatten
from fxgrow.files.input_values import from_spec
from fxgrow.files.reading import Contents
from fxgrow.files.table import InputSpec, Table
from fxgrow.primitives.copying import deep_copy
from fxgrow.primitives.unwrapping import bare


def trace_again(base: nn.Module, contents: Contents, where: str) -> fx.GraphModule:
    """Return the graph of a copy of `base`: by the door that the file's model came through.

    Args:
        base: The model, or a GraphModule of it.
        contents: What the file says: without a trace policy the model came from plain `torch.fx.symbolic_trace`, and a
            GraphModule is taken as it is.
        where: The file, for errors.

    Raises:
        FileError: If the model cannot be traced so.
    """
    base = deep_copy(bare(base)).cpu()
    give_dtypes(base, contents.tensors)
    record = contents.table.record
    try:
        if not record.trace_policy:
            return base if isinstance(base, fx.GraphModule) else fx.symbolic_trace(base)
        from fxgrow.tracing import retrace

        inputs = _inputs_for(base, contents.table)
        _fit_dtype(base, inputs)
        return retrace(base, inputs, {**record.trace_policy, "leaves": _wholes(contents.table)})
    except FxgrowError as error:
        raise FileError(
            f"its base cannot be traced ({error})", where=where, fix="give the model that was traced"
        ) from error
    except Exception as error:  # symbolic_trace runs the model's own forward
        what = f"its base cannot be traced ({type(error).__name__}: {first_line(error)[:100]})"
        raise FileError(what, where=where, fix="give the model that was traced") from error


def _wholes(table: Table) -> list[str]:
    """Return what stays whole: what had to when it was traced, and what was put whole in its place since."""
    called = [row.target for row in table.nodes if row.op == "call_module" and not row.provenance.pass_name]
    return [*table.record.trace_policy.get("leaves", ()), *called]


def give_dtypes(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Cast each parameter and buffer of `module` to the dtype of the tensor of its name, in place."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        stored = tensors.get(name)
        if stored is not None and stored.dtype != tensor.dtype:
            tensor.data = tensor.data.to(stored.dtype)


def example_inputs(table: Table) -> Inputs:
    """Return random inputs of the shapes and dtypes with which a model was traced; the global state is untouched.

    Raises:
        FileError: If one of them is a constant of a class that is not loaded.
    """
    generator = torch.Generator().manual_seed(0)
    values = [_build(spec, generator) for spec in table.inputs]
    return Inputs.in_order([spec.name for spec in table.inputs], values, table.record.trace_policy.get("keywords", ()))


def _inputs_for(model: nn.Module, table: Table) -> Any:
    """Return inputs that `model` takes; a file of an earlier version does not say which of them go by keyword."""
    inputs = example_inputs(table)
    if inputs.kwargs:
        return inputs
    names = dict(zip([spec.name for spec in table.inputs], inputs.args, strict=True))
    parameters = inspect.signature(model.forward).parameters
    if list(names) == list(parameters)[: len(names)]:
        return inputs  # by place, as a hook of the model may look at them there
    by_name = all(
        name in parameters and parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for name in names
    )
    return names if by_name else inputs


def _fit_dtype(base: nn.Module, inputs: Any) -> None:
    """Cast a model to the dtype of its inputs if none of its tensors has it: it was cast after it was traced."""
    wanted = [tensor.dtype for _, tensor in flatten(inputs) if tensor.dtype.is_floating_point]
    if wanted and wanted[0] not in {parameter.dtype for parameter in base.parameters()}:
        base.to(wanted[0])


def _build(spec: InputSpec, generator: torch.Generator) -> Any:
    return from_spec(spec.value, lambda shape, dtype: _random(shape, getattr(torch, dtype), spec, generator))


def _random(shape: tuple[int, ...], dtype: torch.dtype, spec: InputSpec, generator: torch.Generator) -> Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, dtype=torch.promote_types(dtype, torch.float32), generator=generator).to(dtype)
    if spec.values is not None:
        return torch.tensor(spec.values, dtype=dtype)
    low, high = spec.integers or (0, 1)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)
