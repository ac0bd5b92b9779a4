"""The formulas of docs/ranks.md agree with what two ranks count."""

from pathlib import Path

import pytest
import ranks
from many_ranks.check import count_on_two_ranks
from many_ranks.costs import SHAPES, Linear, Probe, event_cost, groups

SITE = Linear(100, 50)


def test_two_ranks_reduce_and_compute_what_the_formulas_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))  # for the processes that are started
    for counted in count_on_two_ranks():
        assert counted.reduced == counted.reduced_formula
        assert counted.other < 0.02 * counted.reduced
        assert counted.flops == pytest.approx(counted.flops_formula, rel=0.05)


def test_more_ranks_divide_products_and_not_what_is_reduced() -> None:
    few, many = (event_cost(SHAPES[0], count, Probe()) for count in (8, 256))
    assert few.product_flops == 32 * many.product_flops
    assert few.reduced_bytes == many.reduced_bytes
    assert few.orthogonal_flops == many.orthogonal_flops


def test_sites_that_do_not_fit_together_take_a_pass_each_and_one_that_never_fits_is_an_error() -> None:
    one = 4 * (10 * (SITE.features + SITE.neurons) + 2 * 16 * SITE.weights)
    assert groups([SITE] * 3, 10, Probe(max_memory=one)) == 3
    assert groups([SITE] * 3, 10, Probe(max_memory=4 * one)) == 1
    assert groups([SITE], 10, Probe(max_memory=one // 2)) in (2, 3)
    with pytest.raises(MemoryError, match="the inputs of one site take"):
        groups([SITE], 10, Probe(max_memory=100))


def test_the_page_that_lies_in_docs_is_the_one_of_these_formulas() -> None:
    page = (Path(__file__).parents[2] / "docs/ranks.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ViT") or line.startswith("| Llama")]
    assert rows == ranks._rows(Probe(), ranks.Machine())
