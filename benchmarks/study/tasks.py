"""The tasks: data, architecture, and how long a run of full length is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from study.networks import Architecture, ConvolutionalArchitecture, Shape
from study.sources import Source, digits, language, mnist1d, warped

#: the networks of one batch: the learning rate and the seed of each
Members = tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Task:
    """One task of the study.

    Attributes:
        source: loads the data, once.
        block: the block of the full network; arms grow its copies in depth or its hidden units in width.
        depth: how many blocks the uniform network has.
        steps: length of a full run.
        rates: the learning rates over which every arm is tuned.
        together: at most so many networks are trained in one batch.
    """

    name: str
    title: str
    source: Callable[[], Source]
    architecture: Architecture
    block: Shape
    depth: int
    steps: int
    batch: int
    rates: tuple[float, ...]
    together: int
    tuning: int  #: so many seeds tune the rates and choose arms; fresh ones confirm
    gate_seeds: int = 3  #: fresh ones, on which the bigger uniform network must be better than the smaller one
    compiled: bool = False  #: by torch.compile: worth it where a run takes many minutes
    negative: bool = False  #: capacity does not bind, and no gain is expected: shown for that


def fresh_seeds(count: int, after: int = 0) -> tuple[int, ...]:
    """Return seeds on which nothing was tuned or chosen, but for the first ``after`` ones."""
    return tuple(range(1000 + after, 1000 + after + count))


def batch(source: Source, task: Task, seeds: Sequence[int], step: int, share: float) -> tuple[Tensor, Tensor]:
    """Return the mini-batch of a step for all seeds, (seeds, samples, ...): the same for every arm.

    ``share`` takes the first part of it, for arms that begin with smaller batches. Negative steps are batches that no
    arm trains on.
    """
    size = max(1, round(share * task.batch))
    generators = {seed: np.random.default_rng((seed, abs(step), int(step < 0))) for seed in seeds}
    drawn = {seed: source.draw(generator, task.batch) for seed, generator in generators.items()}
    x, y = (torch.stack(parts) for parts in zip(*(drawn[seed] for seed in seeds), strict=True))
    return x[:, :size], y[:, :size]


_MNIST1D = Architecture(tokens=1, features=40, outputs=10)
_MNIST1D_PATCHES = Architecture(tokens=10, features=4, outputs=10)
_MNIST1D_SAMPLES = Architecture(tokens=20, features=2, outputs=10, width=16, kernel=3)
_TEXT = Architecture(tokens=32, features=97, outputs=97, text=True)
_DIGITS = Architecture(tokens=16, features=49, outputs=10)
_DIGITS_CONVOLVED = ConvolutionalArchitecture(tokens=16, features=49, outputs=10)

_ALL = (
    Task(
        name="mnist1d-mlp",
        title="MNIST-1D, residual MLP of width 32",
        source=mnist1d.source(tokens=1),
        architecture=_MNIST1D,
        block=Shape(hidden=64),
        depth=8,
        steps=4000,
        batch=128,
        rates=(0.0025, 0.005, 0.01, 0.02),
        together=12,
        tuning=3,
        gate_seeds=12,
    ),
    Task(
        name="mnist1d-transformer",
        title="MNIST-1D, transformer of width 32 on 10 tokens",
        source=mnist1d.source(tokens=10),
        architecture=_MNIST1D_PATCHES,
        block=Shape(heads=4, hidden=64),
        depth=8,
        steps=2000,
        batch=128,
        rates=(0.0025, 0.005, 0.01),
        together=9,
        tuning=3,
        gate_seeds=12,
        compiled=True,
    ),
    Task(
        name="mnist1d-convnet",
        title="MNIST-1D, residual ConvNet of width 16 on 20 positions",
        source=mnist1d.source(tokens=20),
        architecture=_MNIST1D_SAMPLES,
        block=Shape(hidden=32),
        depth=8,
        steps=2000,
        batch=128,
        rates=(0.0025, 0.005, 0.01),
        together=9,
        tuning=3,
        gate_seeds=12,
        compiled=True,
    ),
    Task(
        name="text",
        title="Python's library by character, causal transformer of width 32",
        source=language.source,
        architecture=_TEXT,
        block=Shape(heads=4, hidden=128),
        depth=8,
        steps=2400,
        batch=32,
        rates=(0.008, 0.016, 0.032),
        together=3,
        tuning=1,
        compiled=True,
    ),
    Task(
        name="warped-digits",
        title="MNIST digits under random affine maps, ViT of width 32 on 16 tokens",
        source=warped.source,
        architecture=_DIGITS,
        block=Shape(heads=4, hidden=128),
        depth=8,
        steps=2000,
        batch=96,
        rates=(0.003, 0.006, 0.012, 0.024),
        together=3,
        tuning=1,
        compiled=True,
    ),
    Task(
        name="digits",
        title="4,000 plain MNIST digits, ViT of width 32 on 16 tokens (capacity does not bind)",
        source=digits.source,
        architecture=_DIGITS,
        block=Shape(heads=4, hidden=128),
        depth=8,
        steps=800,
        batch=96,
        rates=(0.0015, 0.003, 0.006),
        together=3,
        tuning=1,
        negative=True,
    ),
)

TASKS = {task.name: task for task in _ALL}
TASKS["text-long"] = replace(
    TASKS["text"],
    name="text-long",
    title="The same text, four times as many steps",
    steps=9600,
    rates=(0.004, 0.008, 0.016),  # long runs want lower ones
)
TASKS["small-digits"] = replace(
    TASKS["digits"],
    name="small-digits",
    title="scikit-learn's digits, 8 x 8 pixels, ViT of width 32 on 16 tokens (capacity does not bind)",
    source=digits.small_source,
    architecture=replace(_DIGITS, features=4),
)
TASKS["warped-digits-convolved"] = replace(
    TASKS["warped-digits"],
    name="warped-digits-convolved",
    title="The same digits, ViT with a convolutional stem",
    architecture=_DIGITS_CONVOLVED,
)
TASKS["text-short"] = replace(
    TASKS["text"], name="text-short", title="The same text, 1,000 steps: what fits into an hour", steps=1000
)
