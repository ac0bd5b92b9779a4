"""Break long lines of source as formatters do."""

from collections.abc import Iterator

_WIDTH = 110
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def wrapped(line: str) -> Iterator[str]:
    """Yield a line, or the lines that it is broken into at its last bracket that closes at its end."""
    if len(line) <= _WIDTH or not line.endswith((")", "]", "}")):
        yield line
        return
    opening = _opening(line)
    inner, indent = line[opening + 1 : -1], line[: len(line) - len(line.lstrip())]
    if opening < 0 or not inner or " for " in inner:
        yield line
        return
    yield line[: opening + 1]
    for item in _items(inner):
        yield from wrapped(f"{indent}    {item},")
    yield f"{indent}{line[-1]}"


def _opening(line: str) -> int:
    """Return the place of the bracket that the last character closes."""
    open_brackets: list[int] = []
    quote = ""
    for place, character in enumerate(line):
        if quote or character in "\"'":
            quote = "" if character == quote else quote or character
        elif character in _PAIRS:
            open_brackets.append(place)
        elif character in _PAIRS.values():
            last = open_brackets.pop()
            if place == len(line) - 1:
                return last
    return -1


def _items(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    items, depth, quote, start = [], 0, "", 0
    for place, character in enumerate(text):
        if quote or character in "\"'":
            quote = "" if character == quote else quote or character
        elif character in _PAIRS:
            depth += 1
        elif character in _PAIRS.values():
            depth -= 1
        elif character == "," and depth == 0:
            items.append(text[start:place].strip())
            start = place + 1
    return [*items, text[start:].strip()] if text[start:].strip() else items
