"""Random tensors of tests have the same values on every processor."""

import os
import subprocess
import sys

import pytest
import torch

from fxgrow.testing import Draws

SCRIPT = """
import torch
from fxgrow.testing import Draws, RandomNetwork, Recipe, Layer
draws = Draws(seed=3)
network = RandomNetwork(Recipe((4,), (Layer("linear", (0,), size=40), Layer("layer-norm", (1,))), seed=5))
torch.save([draws.normal(50, 7), draws.uniform(9), *network.state_dict().values()], "{}")
"""


def test_draws_and_random_networks_are_the_same_with_other_vector_units(tmp_path):
    for capability in ("avx2", "default"):
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        code = SCRIPT.format(tmp_path / capability)
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    first, second = (torch.load(tmp_path / capability) for capability in ("avx2", "default"))
    assert all(torch.equal(left, right) for left, right in zip(first[:2], second[:2], strict=True))
    # nn.Linear draws one uniform number for each weight, everywhere; scaling it may round otherwise
    for left, right in zip(first[2:], second[2:], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-7)


def test_seeds_and_streams_are_independent_and_one_stream_goes_on():
    draws = Draws(seed=1)
    values = [draws.normal(1000), draws.normal(1000), Draws(seed=2).normal(1000), Draws(1, stream=1).normal(1000)]
    # the correlation of independent samples has a standard deviation of 1 / sqrt(1000) = 0.03
    assert float((torch.corrcoef(torch.stack(values)) - torch.eye(4).double()).abs().max()) < 0.15
    assert torch.equal(Draws(seed=1).normal(1000), values[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dtype_rounds_the_same_numbers(dtype):
    exact = Draws(4)
    rounded = Draws(4, dtype)
    assert torch.equal(rounded.normal(3, 2), exact.normal(3, 2).to(dtype))
    assert torch.equal(rounded.uniform(5, low=-2, high=-1), exact.uniform(5, low=-2, high=-1).to(dtype))
    assert rounded.normal().shape == ()


def test_numbers_have_the_distribution_that_they_are_said_to_have():
    draws = Draws(0)
    normal, uniform = draws.normal(10_000), draws.uniform(10_000, low=-1, high=3)
    # standard errors: 0.01 and 0.007 of mean and deviation of normal numbers, 0.012 of the mean of uniform ones
    assert abs(float(normal.mean())) < 0.05
    assert abs(float(normal.std()) - 1) < 0.035
    assert abs(float(uniform.mean()) - 1) < 0.06
    assert -1 <= float(uniform.min()) < float(uniform.max()) <= 3


def test_drawing_leaves_torchs_random_state():
    state = torch.get_rng_state()
    Draws(0).normal(20)
    assert torch.equal(torch.get_rng_state(), state)
