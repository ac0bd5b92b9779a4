"""Scores in short, as the growth history keeps them."""

import numpy as np
import pytest
import torch

from fxgrow.curvature.scores import Scores, SiteScores
from fxgrow.files.plain import to_plain
from fxgrow.record.evidence import site_evidence


def drawn(seed: int, sign: int = -1, reached: bool = False) -> SiteScores:
    generator = np.random.default_rng(seed)
    values, held_out = (torch.from_numpy(generator.standard_normal(40)) for _ in range(2))
    stderr = torch.from_numpy(generator.uniform(0.1, 0.6, 40))
    mask = torch.from_numpy(generator.random(40) < 0.7) if reached else None
    return SiteScores(values, held_out, stderr, sign=sign, reached=mask)


@pytest.mark.parametrize("reached", [False, True])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_short_form_counts_and_averages_the_neurons_that_a_gradient_reaches(sign: int, reached: bool) -> None:
    site = drawn(0, sign, reached)
    (short,) = Scores({"fc": site}, "eigen", "0" * 16, 512).evidence()
    kept = torch.ones(40, dtype=torch.bool) if site.reached is None else site.reached
    assert (short.site, short.neurons, short.sign) == ("fc", int(kept.sum()), sign)
    assert short.significant == int(site.significant.sum())
    assert short.held_out == pytest.approx(float(site.held_out[kept].mean()))
    assert short.stderr == pytest.approx(float(site.stderr[kept].square().sum().sqrt() / kept.sum()))
    assert short.extreme == (site.values[kept].min() if sign < 0 else site.values[kept].max())


def test_without_halves_there_is_no_error_and_nothing_is_significant() -> None:
    values = torch.arange(4.0, dtype=torch.float64)
    (short,) = Scores({"fc": SiteScores(values, None, None)}, "eigen", "0" * 16, 1).evidence()
    assert (short.held_out, short.stderr, short.significant, short.asks) == (None, None, 0, False)


def test_a_site_that_no_gradient_reaches_has_none() -> None:
    dark = SiteScores(torch.zeros(3), None, None, reached=torch.zeros(3, dtype=torch.bool))
    assert Scores({"fc": dark}, "eigen", "0" * 16, 1).evidence() == ()
    assert site_evidence({}) == ()


def test_a_mean_asks_for_growth_in_the_direction_of_its_sign() -> None:
    held_out, stderr = torch.full((4,), -1.0), torch.full((4,), 0.1)
    both = [SiteScores(held_out, held_out, stderr, sign=sign) for sign in (-1, 1)]
    assert [Scores({"fc": site}, "x", "0" * 16, 1).evidence()[0].asks for site in both] == [True, False]


def test_it_is_plain_data() -> None:
    plain = to_plain(Scores({"fc": drawn(1)}, "eigen", "0" * 16, 512).evidence()[0])
    assert set(plain) == {"site", "neurons", "extreme", "held_out", "stderr", "significant", "sign"}
