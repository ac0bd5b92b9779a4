"""Spell how a module of torch is built, and check it by building one."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.errors import ExportError
from fxgrow.export.source.expressions import Helpers, spell

_NOT_SPELLED = ("device", "args", "kwargs", "self")


def spell_constructor(module: nn.Module, path: str, helpers: Helpers) -> str:
    """Return the call that builds a module like this one, as in ``nn.Linear(24, 72)``.

    Options are read from the attributes of their names, which torch's modules have. What is built from the text is
    compared with the module: options as they print, and names, shapes and dtypes of its tensors.

    Raises:
        ExportError: If the module is of another package, or is not what the text builds.
    """
    kind = type(module)
    package = kind.__module__.partition(".")[0]
    if package == "fxgrow":
        name = helpers.name_of(kind)
    elif package == "torch" and getattr(nn, kind.__name__, None) is kind:
        name = f"nn.{kind.__name__}"
    else:
        what = f"it is a {kind.__module__}.{kind.__qualname__}, which plain torch does not have"
        raise ExportError(what, where=path, fix="export it --to pt2 or onnx")
    try:
        text = f"{name}({', '.join(_arguments(module))})"
        with torch.device("meta"):
            made = eval(text, {"nn": nn, "torch": torch, "F": F, kind.__name__: kind})
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        what = f"how {name} was built cannot be read from it ({error})"
        raise ExportError(what, where=path, fix="export it --to pt2 or onnx") from error
    if _description(made) != _description(module):
        raise ExportError(f"how {name} was built cannot be read from it", where=path, fix="export it --to pt2 or onnx")
    return text


def _arguments(module: nn.Module) -> Iterator[str]:
    """Yield the arguments: the required ones by place, others by name where they are not their defaults."""
    by_place = True
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name in _NOT_SPELLED or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = _option(module, name, parameter.default)
        required = parameter.default is parameter.empty
        by_place = by_place and required
        if required or value != parameter.default:
            spelled = spell(value, {}, None)  # type: ignore[arg-type]
            yield spelled if by_place else f"{name}={spelled}"


def _option(module: nn.Module, name: str, default: Any) -> Any:
    if name == "dtype":
        dtypes = {tensor.dtype for tensor in module.parameters()}
        return dtypes.pop() if len(dtypes) == 1 and dtypes != {torch.float32} else None
    if name == "bias" and not isinstance(getattr(module, "bias", None), bool):
        return getattr(module, "bias", None) is not None
    value = getattr(module, name) if hasattr(module, name) else default
    single = isinstance(value, tuple) and len(set(value)) == 1 and isinstance(default, int)
    return value[0] if single else value


def _description(module: nn.Module) -> Any:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return repr(module), {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def spell_parameter(tensor: Tensor, *, parameter: bool) -> str:
    """Return what makes room for a tensor; its numbers come from the file of weights."""
    dtype = "" if tensor.dtype == torch.float32 else f", dtype={tensor.dtype}"
    room = f"torch.zeros({', '.join(map(str, tensor.shape)) or '()'}{dtype})"
    if not parameter:
        return room
    trained = "" if tensor.dtype.is_floating_point or tensor.dtype.is_complex else ", requires_grad=False"
    return f"nn.Parameter({room}{trained})"
