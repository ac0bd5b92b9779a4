"""Numbers and names as people read them, in Unicode, and the same in ASCII."""

from collections.abc import Sequence

_UNITS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


LEVELS = " ▁▂▃▄▅▆▇█"  #: from empty to full
#: what a terminal without Unicode gets in place of our marks
_ASCII = str.maketrans(
    {**dict(zip(LEVELS, " .:-=+*#@", strict=True)), **dict(zip("├└│─×⊕−", "|`|-x+-", strict=True))}
    | {"→": "->", "±": "+-", "…": "..."}
)


def to_ascii(text: str) -> str:
    """Spell our marks in ASCII.

    Example:
        >>> to_ascii("├─ ⊕ 2×3 → 4 ± 1")
        '|- + 2x3 -> 4 +- 1'
    """
    return text.translate(_ASCII)


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


def quantity(number: float, unit: str) -> str:
    """Spell a number with its unit.

    Example:
        >>> quantity(9.21e9, "FLOPs"), quantity(576, "FLOPs")
        ('9.21 GFLOPs', '576 FLOPs')
    """
    spelled = short(number)
    return f"{spelled}{unit}" if " " in spelled else f"{spelled} {unit}"


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


def shape_text(shape: Sequence[int] | None) -> str:
    """Spell a shape, as in ``1×197×384``; a scalar's is empty, like one that is not known."""
    return "×".join(map(str, shape or ()))


def meter(share: float, width: int) -> str:
    """Draw a bar of `width` characters, filled to `share`.

    Example:
        >>> meter(0.375, 4)
        '█▄  '
    """
    eighths = round(share * width * (len(LEVELS) - 1))
    if share > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(eighths, len(LEVELS) - 1)
    bar = LEVELS[-1] * full + (LEVELS[rest] if rest else "")
    return bar.ljust(width)


def plain_text(text: str) -> str:
    """Return `text` on one line and without control characters: a file's strings may not steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def sparkline(shares: Sequence[float]) -> str:
    """Draw one character for each share; a share of zero is the lowest mark and not a blank.

    Example:
        >>> sparkline([0.0, 0.5, 1.0])
        '▁▅█'
    """
    marks = LEVELS[1:]
    return "".join(marks[round(share * (len(marks) - 1))] for share in shares)
