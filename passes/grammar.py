"""The text of pipelines: ``name{option=value option=value},name``, where a value is JSON or a bare word."""

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from fxgrow.errors import PassError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD = re.compile(r"[^\s{}\[\],=\"]+")
_SPACE = re.compile(r"\s*")


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is equal to nothing, so it could not be read back")


#: Infinity is allowed, since it survives a round trip; NaN is not
_DECODER = json.JSONDecoder(
    parse_constant=lambda constant: _refuse_constant(constant) if constant == "NaN" else float(constant)
)


@dataclass(frozen=True)
class PassText:
    """One pass of a pipeline as it was written: its name, and its options as decoded JSON."""

    name: str
    options: dict[str, Any]


def read_pipeline(text: str) -> list[PassText]:
    """Split the text of a pipeline into its passes; an empty text has none.

    Example:
        >>> read_pipeline('insert-pseudo-layer{site="fc1" rows=[0,3] operator=serial}')
        [PassText(name='insert-pseudo-layer', options={'site': 'fc1', 'rows': [0, 3], 'operator': 'serial'})]

    Raises:
        PassError: If the text is not of this form; the message names the place.
    """
    reader = _Reader(text)
    reader.skip_space()
    passes: list[PassText] = []
    while not reader.at_end() or passes:
        passes.append(reader.read_pass())
        if reader.at_end():
            break
        reader.expect(",", "a comma and another pass, or the end")
    return passes


class _Reader:
    """A position in a text that moves forward over what was read, and over the space behind it."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0

    def at_end(self) -> bool:
        return self.position == len(self.text)

    def sees(self, character: str) -> bool:
        return self.text.startswith(character, self.position)

    def skip_space(self) -> None:
        match = _SPACE.match(self.text, self.position)
        self.position = match.end() if match else self.position

    def expect(self, character: str, what: str) -> None:
        if not self.sees(character):
            self.fail(f"expected {what}")
        self.position += 1
        self.skip_space()

    def read(self, pattern: re.Pattern[str], what: str) -> str:
        match = pattern.match(self.text, self.position)
        if match is None:
            self.fail(f"expected {what}")
        self.position = match.end()
        self.skip_space()
        return match.group()

    def read_pass(self) -> PassText:
        name = self.read(_NAME, "the name of a pass")
        options: dict[str, Any] = {}
        if self.sees("{"):
            self.expect("{", "an opening brace")
            while not self.sees("}"):
                self.read_option(name, options)
            self.expect("}", "a closing brace")
        return PassText(name, options)

    def read_option(self, name: str, options: dict[str, Any]) -> None:
        option = self.read(_OPTION, "an option as in `rows=[0,3]`, or a closing brace")
        if option in options:
            raise PassError("this option is given twice", where=f"{name}{{{option}}}", fix="drop one of the two")
        self.expect("=", f"`=` and a value for the option {option}")
        options[option] = self.read_value(option)

    def read_value(self, option: str) -> Any:
        try:
            value, end = _DECODER.raw_decode(self.text, self.position)
        except ValueError:
            return self.read(_WORD, f"a JSON value or a bare word for the option {option}")
        if end < len(self.text) and self.text[end] not in "} \t\r\n":  # as in 3x3, which is a bare word
            return self.read(_WORD, f"a space or a closing brace after the value of the option {option}")
        self.position = end
        self.skip_space()
        return value

    def fail(self, what: str) -> NoReturn:
        rest = self.text[self.position : self.position + 20] or "the end"
        raise PassError(
            f"{what} at character {self.position + 1}, found {rest!r}",
            where="pipeline",
            fix="write it as name{option=value option=value},name",
        )
