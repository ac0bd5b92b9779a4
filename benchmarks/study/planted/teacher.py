"""The task: 16 outputs of one regression, four of which are hard, in random order."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUTS, OUTPUTS, HARD = 12, 16, 4
_TEACHER = 24  #: hidden units of the teacher's layers
_SCALE_SAMPLES = 4_096


@dataclass(frozen=True)
class Variant:
    """What the easy outputs are, and whether some of them are noisy.

    Attributes:
        easy: "linear", or "tanh": one hidden layer. The hard outputs have five.
        noise: standard deviation of label noise on four easy outputs, whose own is 1.
    """

    name: str
    easy: str
    noise: float = 0.0


VARIANTS = (Variant("linear", "linear"), Variant("noisy", "linear", 1.0), Variant("tanh", "tanh"))


class Data(NamedTuple):
    """A batch: inputs (samples, inputs), targets and targets without noise (samples, outputs)."""

    x: Tensor
    y: Tensor
    clean: Tensor


class Teacher:
    """The function that one seed plants; ``hard`` holds its hard outputs."""

    def __init__(self, variant: Variant, seed: int) -> None:
        generator = np.random.default_rng((seed, len(variant.easy)))
        order = torch.from_numpy(generator.permutation(OUTPUTS))
        self.hard, self.easy = order[:HARD], order[HARD:]
        self.noise = torch.zeros(OUTPUTS)
        self.noise[self.easy[:HARD]] = variant.noise
        self._deep = [_map(generator, INPUTS if i == 0 else _TEACHER, _TEACHER) for i in range(5)]
        self._shallow = [_map(generator, INPUTS, _TEACHER)] if variant.easy == "tanh" else []
        self._last = [
            _map(generator, _TEACHER, HARD),
            _map(generator, _TEACHER if self._shallow else INPUTS, OUTPUTS - HARD),
        ]
        self._mean, self._deviation = torch.zeros(OUTPUTS), torch.ones(OUTPUTS)
        found = self._outputs(torch.from_numpy(generator.normal(size=(_SCALE_SAMPLES, INPUTS))).float())
        self._mean, self._deviation = found.mean(0), found.std(0)

    def _outputs(self, x: Tensor) -> Tensor:
        found = torch.empty(len(x), OUTPUTS)
        for layers, last, chosen in zip((self._deep, self._shallow), self._last, (self.hard, self.easy), strict=True):
            hidden = x
            for layer in layers:
                hidden = torch.tanh(hidden @ layer)
            found[:, chosen] = hidden @ last
        return (found - self._mean) / self._deviation

    def draw(self, generator: np.random.Generator, samples: int) -> Data:
        """Return fresh data."""
        x = torch.from_numpy(generator.normal(size=(samples, INPUTS))).float()
        clean = self._outputs(x)
        noise = torch.from_numpy(generator.normal(size=clean.shape)).float()
        return Data(x, clean + self.noise * noise, clean)


def _map(generator: np.random.Generator, inputs: int, outputs: int) -> Tensor:
    """Draw a matrix that keeps the spread of a tanh layer: twice the usual size."""
    return torch.from_numpy(generator.normal(0, 2 / inputs**0.5, (inputs, outputs))).float()


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error, as the scores see it."""
    return F.mse_loss(output, target)


def module(parameters: dict[str, Tensor]) -> nn.Sequential:
    """Return one network without growth as plain modules, for fxgrow."""
    layers: list[nn.Module] = []
    for index in range(3):
        weight, bias = parameters[f"weight{index}"], parameters[f"bias{index}"]
        layer = nn.Linear(weight.shape[0], weight.shape[1])
        layer.load_state_dict({"weight": weight.T, "bias": bias})
        layers += [layer, nn.GELU()]
    return nn.Sequential(*layers[:-1])
