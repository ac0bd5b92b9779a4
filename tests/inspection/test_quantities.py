import doctest

import pytest

from fxgrow.inspection import quantities
from fxgrow.inspection.quantities import meter, percent, quantity, short, sparkline, to_ascii, two_digits


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(quantities).failed == 0


@pytest.mark.parametrize("exponent", range(-40, 40, 3))
@pytest.mark.parametrize("mantissa", [-9.99, -1.0, 2.45, 9.951])
def test_two_digits_are_short_and_close(exponent, mantissa):
    number = mantissa * 10.0**exponent
    text = two_digits(number)
    assert len(text) <= 8
    assert float(text) == pytest.approx(number, rel=0.051)


def test_units():
    assert [short(n) for n in (0, 999, 1234, 9_210_000_000, 999_999)] == ["0", "999", "1.23 k", "9.21 G", "1.00 M"]


def test_a_small_share_is_not_zero():
    assert (percent(0.0), percent(0.0001), percent(1.0)) == ("0 %", "<1 %", "100 %")


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.1, 0.5, 0.999, 1.0])
def test_a_meter_has_its_width_and_is_empty_only_at_zero(share):
    bar = meter(share, 8)
    assert len(bar) == len(to_ascii(bar)) == 8
    assert to_ascii(bar).isascii()
    assert (bar.strip() == "") == (share == 0.0)


def test_a_sparkline_rises_with_the_shares():
    assert sparkline([0.0, 0.25, 0.5, 1.0]) == "▁▃▅█"
    assert to_ascii(sparkline([0.0, 1.0])) == ".@"


def test_a_unit_stands_behind_its_prefix_or_behind_a_space() -> None:
    assert [quantity(number, "FLOPs") for number in (0, 576, 9.21e9)] == ["0 FLOPs", "576 FLOPs", "9.21 GFLOPs"]
