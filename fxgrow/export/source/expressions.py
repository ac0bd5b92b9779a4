"""Spell a node as Python."""

import dataclasses
import inspect
import math
import operator
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.fx as fx
import torch.nn.functional as F

from fxgrow.errors import ExportError
from fxgrow.primitives.modules import qualified_name
from fxgrow.record.location import module_path

_INFIX = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/", operator.floordiv: "//",
    operator.mod: "%", operator.pow: "**", operator.matmul: "@", operator.and_: "&", operator.or_: "|",
    operator.xor: "^", operator.eq: "==", operator.ne: "!=", operator.lt: "<", operator.le: "<=", operator.gt: ">",
    operator.ge: ">=", operator.is_: "is", operator.is_not: "is not",
}  # fmt: skip
_PREFIX = {operator.neg: "-", operator.invert: "~"}
_FUNCTIONAL = {id(function): f"F.{name}" for name, function in vars(F).items() if callable(function)}
_TORCH = {id(function): f"torch.{name}" for name, function in vars(torch).items() if callable(function)}

Names = Mapping[fx.Node, str]


class Helpers:
    """What a graph calls and plain torch does not have, to be written into the file: of fxgrow, and output classes."""

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}

    def take(self, thing: Any) -> None:
        """Take the source of a function in if it is one of fxgrow."""
        if inspect.isfunction(thing) and thing.__module__.partition(".")[0] == "fxgrow":
            self.name_of(thing)

    def name_of(self, thing: Callable[..., Any]) -> str:
        """Return the name of a function or class of fxgrow, and take its source in."""
        name = thing.__name__
        self.sources.setdefault(name, textwrap.dedent(inspect.getsource(thing)).strip())
        return name

    def name_of_output(self, kind: type) -> str:
        """Return the name of a class of named outputs, and take in a plain dataclass with its fields."""
        lines = [
            "@dataclass",
            f"class {kind.__name__}:",
            f'    """Named outputs, as {kind.__module__} has them."""',
            "",
            *(f"    {field.name}: Any = None" for field in dataclasses.fields(kind)),
        ]
        self.sources.setdefault(kind.__name__, "\n".join(lines))
        return kind.__name__


def spell_node(node: fx.Node, callee: str, names: Names, helpers: Helpers) -> str:
    """Return the expression of a node.

    Args:
        node: A call of a module, a method or a function.
        callee: How the module is reached, for a call of one.
        names: How the values are called that it reads.
        helpers: Collects what fxgrow defines.

    Raises:
        ExportError: If it calls what only some other package has.
    """
    args = [spell(argument, names, node) for argument in node.args]
    if node.target is operator.getitem:
        return f"{_operand(args[0])}[{_index(node.args[1], names, node)}]"
    if node.op == "call_function" and not node.kwargs:
        plain = _plain(node, args)
        if plain is not None:
            return plain
    keywords = [f"{name}={spell(value, names, node)}" for name, value in node.kwargs.items()]
    if node.op == "call_method":
        return f"{_operand(args[0])}.{node.target}({', '.join([*args[1:], *keywords])})"
    function = callee if node.op == "call_module" else _function(node.target, node, helpers)
    return f"{function}({', '.join([*args, *keywords])})"


def reads_only(node: fx.Node) -> bool:
    """Say whether a node is spelled where it is read: the shape of a tensor, or a part that is read once."""
    if node.target is getattr:
        return node.args[1] in ("shape", "dtype", "device")
    return node.target is operator.getitem and len(node.users) == 1 and not node.kwargs


def _plain(node: fx.Node, args: list[str]) -> str | None:
    """Spell what Python has its own signs for."""
    target: Any = node.target
    if target is operator.eq and any(node.args[1] is truth for truth in (True, False)):  # which linters refuse
        return (f"bool({args[0]})" if node.args[1] else f"not {args[0]}") if _is_asserted(node) else None
    if target in _INFIX and len(args) == 2:
        return f"{_operand(args[0])} {_INFIX[target]} {_operand(args[1])}"
    if target in _PREFIX and len(args) == 1:
        return f"{_PREFIX[target]}{_operand(args[0])}"
    if target is getattr and len(args) == 2:
        return f"{_operand(args[0])}.{args[1][1:-1]}"
    return None


def _is_asserted(node: fx.Node) -> bool:
    return all(user.target is torch._assert for user in node.users)


def _operand(text: str) -> str:
    return f"({text})" if any(sign in text for sign in " -~") and not text.startswith(("(", "[")) else text


def _function(target: Any, node: fx.Node, helpers: Helpers) -> str:
    if id(target) in _FUNCTIONAL:
        return _FUNCTIONAL[id(target)]
    if id(target) in _TORCH:
        return _TORCH[id(target)]
    name = fx.node._get_qualified_name(target)
    module = name.partition(".")[0]
    if module == "fxgrow" and inspect.isfunction(target):
        return helpers.name_of(target)
    if getattr(target, "__module__", "") == "builtins":
        return str(target.__name__)
    if module in ("torch", "_operator", "math"):
        return name.replace("_operator.", "operator.")
    if isinstance(target, type) and dataclasses.is_dataclass(target):
        return helpers.name_of_output(target)
    raise _foreign(qualified_name(target), node)


def _foreign(name: str, node: fx.Node) -> ExportError:
    what = f"it calls {name}, which plain torch does not have"
    return ExportError(what, where=module_path(node) or node.name, fix="export it --to pt2 or onnx")


def spell(value: Any, names: Names, node: fx.Node) -> str:
    """Spell an argument of `node`.

    Raises:
        ExportError: If it is no tensor and no plain value.
    """
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, tuple | list):
        return _sequence([spell(item, names, node) for item in value], value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {spell(item, names, node)}' for key, item in value.items())}}}"
    if isinstance(value, slice):
        return _slice([spell(part, names, node) for part in (value.start, value.stop, value.step)])
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    if value is None or value is ... or isinstance(value, bool):
        return "..." if value is ... else repr(value)
    if isinstance(value, str | int | float | complex):
        return _literal(value)
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
        return str(value)
    if isinstance(value, type) and value in (bool, int, float):
        return value.__name__
    raise _foreign(f"something with a {type(value).__qualname__}", node)


def _index(value: Any, names: Names, node: fx.Node) -> str:
    """Spell what stands between square brackets."""
    if isinstance(value, slice):
        start, stop, step = ("" if p is None else spell(p, names, node) for p in (value.start, value.stop, value.step))
        return f"{start}:{stop}" + (f":{step}" if step else "")
    if isinstance(value, tuple) and value:
        items = [spell(i, names, node) if isinstance(i, tuple) else _index(i, names, node) for i in value]
        return ", ".join(items) + ("," if len(value) == 1 else "")
    return spell(value, names, node)


def _sequence(items: list[str], value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(items)}]"
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _slice(parts: list[str]) -> str:
    return f"slice({', '.join(parts)})"


def _literal(value: str | int | float | complex) -> str:
    """Spell the value itself, also of an enumeration, which prints as something else."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, int):
        return int.__repr__(value)
    return float.__repr__(value) if isinstance(value, float) else _complex(value)


def _complex(value: complex) -> str:
    finite = math.isfinite(value.real) and math.isfinite(value.imag)
    return f"complex({value.real!r}, {value.imag!r})" if finite else f'complex("{complex.__repr__(value)[1:-1]}")'


def _quoted(text: str) -> str:
    return '"' + repr(f"'{str.__str__(text)}")[2:-1].replace('"', '\\"').replace("\\'", "'") + '"'
