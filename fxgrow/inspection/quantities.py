"""Numbers and names as people read them, and the characters that the terminal can show."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import ConsoleOptions

_UNITS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


@dataclass(frozen=True)
class Glyphs:
    """The characters of one character set that trees and bars are drawn with."""

    branch: str
    last: str
    bar: str
    blank: str
    times: str
    arrow: str
    minus: str
    grown: str  #: marks a pseudo-layer
    levels: str  #: from empty to full
    ellipsis: str
    spread: str  #: between a number and its error


UNICODE = Glyphs("├─ ", "└─ ", "│  ", "   ", "×", "→", "−", "⊕ ", " ▁▂▃▄▅▆▇█", "…", "±")
ASCII = Glyphs("|- ", "`- ", "|  ", "   ", "x", "->", "-", "+ ", " .:-=+*#@", "...", "+-")


def count(number: int) -> str:
    """Spell a number in full up to eight digits, and with a unit from there.

    Example:
        >>> count(21704164), count(632045800)
        ('21,704,164', '632 M')
    """
    return f"{number:,}" if number < 10**8 else short(number)


def short(number: float) -> str:
    """Spell a number with three digits and a unit, as in ``9.21 G``."""
    for size, unit in _UNITS:
        if abs(number) >= size * 0.9995:
            return f"{_three_digits(number / size)} {unit}"
    return f"{number:g}"


def _three_digits(number: float) -> str:
    digits = len(str(int(abs(number))))
    return f"{number:.{max(0, 3 - digits)}f}"


def two_digits(number: float) -> str:
    """Spell a number with two digits, in at most seven characters.

    Example:
        >>> two_digits(-0.00213), two_digits(-0.0213), two_digits(10.4)
        ('-2.1e-3', '-0.021', '10')
    """
    if number == 0 or 0.01 <= abs(number) < 99.5:
        return f"{number:.2g}"
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def percent(share: float) -> str:
    """Spell a share as a percentage; what is not zero is not spelled 0 %.

    Example:
        >>> percent(0.38), percent(0.001), percent(0.0)
        ('38 %', '<1 %', '0 %')
    """
    return "<1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")


def shape_text(shape: Sequence[int] | None, glyphs: Glyphs) -> str:
    """Spell a shape, as in ``1×197×384``; a scalar's is empty, like one that is not known."""
    return glyphs.times.join(map(str, shape or ()))


def meter(share: float, width: int, glyphs: Glyphs) -> str:
    """Draw a bar of `width` characters, filled to `share`.

    Example:
        >>> meter(0.375, 4, UNICODE)
        '█▄  '
    """
    eighths = round(share * width * (len(glyphs.levels) - 1))
    if share > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(eighths, len(glyphs.levels) - 1)
    bar = glyphs.levels[-1] * full + (glyphs.levels[rest] if rest else "")
    return bar.ljust(width)


def plain_text(text: str) -> str:
    """Return `text` on one line and without control characters: a file's strings may not steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def sparkline(shares: Sequence[float], glyphs: Glyphs) -> str:
    """Draw one character for each share; a share of zero is the lowest mark and not a blank.

    Example:
        >>> sparkline([0.0, 0.5, 1.0], UNICODE)
        '▁▅█'
    """
    marks = glyphs.levels[1:]
    return "".join(marks[round(share * (len(marks) - 1))] for share in shares)


def glyphs_of(options: ConsoleOptions) -> Glyphs:
    """Return the characters that a console's encoding has."""
    return ASCII if options.ascii_only else UNICODE
