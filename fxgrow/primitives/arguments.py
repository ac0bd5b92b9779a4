"""The arguments of public functions, held against their annotations before anything is done."""

import collections.abc as abc
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

from torch import nn
from torch.optim import Optimizer

from fxgrow.errors import FxgrowError

P = ParamSpec("P")
R = TypeVar("R")

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a string",
    typing.SupportsFloat: "a number",
    type(None): "None",
}
_PLURALS = {int: "whole numbers", float: "numbers", str: "strings"}


def checks_arguments(error: type[FxgrowError], **said: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator: an argument that is not what its annotation says raises `error`, which names the parameter.

    What is annotated as a module or an optimizer is left to the function: it looks into wrappers first.

    Args:
        error: The exception of the function's room.
        said: What to give for a parameter, where its annotation does not say it well.

    Example:
        >>> @checks_arguments(FxgrowError)
        ... def half(share: float, names: abc.Sequence[str] = ()) -> float:
        ...     return share / 2
        >>> half("all")
        Traceback (most recent call last):
        fxgrow.errors.FxgrowError: share: it is a str; give a number
        >>> half(1, names="head")
        Traceback (most recent call last):
        fxgrow.errors.FxgrowError: names: it is a str; give a sequence of strings
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.cache
        def hints() -> dict[str, Any]:
            found = typing.get_type_hints(function)
            variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
            named = [name for name, parameter in signature.parameters.items() if parameter.kind not in variadic]
            return {name: found[name] for name in named if name in found}

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            check(signature.bind(*args, **kwargs).arguments, hints(), error, said)
            return function(*args, **kwargs)

        return checked

    return decorate


def check_fields(instance: Any, error: type[FxgrowError]) -> None:
    """Hold the fields that a dataclass was given against their annotations.

    Raises:
        FxgrowError: As `error`, which names the field that does not fit.
    """
    hints = typing.get_type_hints(type(instance))
    check(
        {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance) if field.init},
        hints,
        error,
        {},
    )


def check(
    values: abc.Mapping[str, Any], hints: abc.Mapping[str, Any], error: type[FxgrowError], said: abc.Mapping[str, str]
) -> None:
    """Raise `error` for the first value that is not what its annotation says."""
    for name, value in values.items():
        hint = hints.get(name, Any)
        if not fits(value, hint):
            raise error(_fact(value), where=name, fix=f"give {said.get(name) or spell(hint)}")


def fits(value: Any, hint: Any) -> bool:
    """Say whether a value is what an annotation says; of a one-shot iterable only that it is one.

    Example:
        >>> fits(True, int), fits(1, float), fits(float("nan"), float), fits("ab", abc.Sequence[str])
        (False, True, False, False)
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is Literal:
        # Which of several words, the function itself says, with the nearest one.
        return any(value is each or (isinstance(value, str) and isinstance(each, str)) for each in arguments)
    if origin is abc.Callable:
        return callable(value)
    if hint in (int, float):
        number = isinstance(value, (int, hint)) and not isinstance(value, bool)
        return number and value == value and not _is_too_large(value)
    if origin in (tuple, list, abc.Sequence, abc.Iterable, abc.Mapping):
        return _fits_collection(value, origin, arguments)
    return _is_instance(value, origin or hint)


def _fits_collection(value: Any, origin: type, arguments: tuple[Any, ...]) -> bool:
    if not isinstance(value, origin) or isinstance(value, (str, bytes)):
        return False
    if origin is abc.Mapping or not isinstance(value, abc.Sequence):
        return True
    return all(fits(each, arguments[0]) for each in value)


def _is_instance(value: Any, kind: Any) -> bool:
    if isinstance(kind, type) and issubclass(kind, (nn.Module, Optimizer)):
        return True
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol that cannot be asked for
        return True


def _is_too_large(value: Any) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _fact(value: Any) -> str:
    if _is_too_large(value):
        return "it takes more than 64 bits"
    if isinstance(value, float) and value != value:
        return "it is nan"
    if isinstance(value, abc.Sequence) and not isinstance(value, (str, bytes)):
        return f"it is {value!r:.60}"
    return f"it is {_article(type(value).__name__)}"


def spell(hint: Any) -> str:
    """Say an annotation in words.

    Example:
        >>> spell(int | None), spell(abc.Sequence[str]), spell(abc.Callable[[int], str])
        ('a whole number or None', 'a sequence of strings', 'a function')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(spell(each) for each in arguments))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is abc.Callable:
        return "a function"
    if origin in (tuple, list, abc.Sequence, abc.Iterable):
        items = _PLURALS.get(arguments[0]) or f"{getattr(arguments[0], '__name__', 'object')} objects"
        return _article(origin.__name__.lower()) + ("" if arguments[0] is Any else f" of {items}")
    if origin is abc.Mapping:
        return "a dict"
    return _WORDS.get(hint) or _article(getattr(origin or hint, "__name__", str(hint)))


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiouAEIOU' else 'a'} {word}"
