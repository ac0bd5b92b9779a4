"""Small tasks for the tests: the study's networks on data that numpy draws."""

import numpy as np
import torch
from study.networks import Architecture, ConvolutionalArchitecture, Shape
from study.sources import Source
from study.tasks import Task

MLP = Architecture(tokens=1, features=5, outputs=3, width=8, head_width=4)
TEXT = Architecture(tokens=6, features=7, outputs=7, width=8, head_width=4, text=True)
IMAGES = Architecture(tokens=4, features=3, outputs=3, width=8, head_width=4)
CONVOLUTION = Architecture(tokens=6, features=2, outputs=3, width=8, kernel=3)
STEM = ConvolutionalArchitecture(tokens=4, features=36, outputs=3, width=8, head_width=4)

BLOCKS = {
    MLP: Shape(hidden=12),
    TEXT: Shape(2, 12),
    IMAGES: Shape(2, 12),
    CONVOLUTION: Shape(hidden=12),
    STEM: Shape(2, 12),
}


def source(architecture: Architecture) -> Source:
    """Return random samples; the target is a function of the input, so that training lowers the loss."""

    def draw(generator: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        if architecture.text:
            text = torch.from_numpy(generator.integers(architecture.features, size=(size, architecture.tokens)))
            return text, (text + 1) % architecture.features
        x = generator.normal(size=(size, architecture.tokens, architecture.features))
        return torch.from_numpy(x).float(), torch.from_numpy(x[:, 0, : architecture.outputs].argmax(-1) % 3)

    return Source(draw, *draw(np.random.default_rng(1), 40))


def task(architecture: Architecture, steps: int = 12, **options: object) -> Task:
    """Return a task that trains in a moment."""
    settings = {"rates": (0.01, 0.02), "together": 4, "tuning": 2, "batch": 8, "depth": 2, **options}
    return Task(
        name="small",
        title="small",
        source=lambda: source(architecture),
        architecture=architecture,
        block=BLOCKS[architecture],
        steps=steps,
        **settings,  # type: ignore[arg-type]
    )
