"""The products' throughput over that of plain matrix products of the same sizes."""

from collections.abc import Iterator

import torch
from measuring.machine import Row, row, seconds

from fxgrow.curvature.lanczos import lanczos, start_vectors
from fxgrow.curvature.matrices import CapturedCall, CurvatureMatrices
from fxgrow.primitives.linear_map import LinearMap

SHAPES = {"fc1": (384, 1536), "fc2": (1536, 384), "qkv": (384, 1152), "proj": (384, 384)}


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of this section."""
    samples = 4 if quick else 32
    for name, (features, neurons) in SHAPES.items():
        x, c = torch.randn(samples, 197, features), torch.randn(samples, 197, neurons)
        matrices = CurvatureMatrices(
            LinearMap(neurons, features, features), (CapturedCall(x, c, samples, samples, (0, 0)),)
        )
        vectors = torch.randn(neurons, features)
        flat = x.flatten(0, 1)

        def plain(flat: torch.Tensor = flat, vectors: torch.Tensor = vectors, c: torch.Tensor = c) -> None:
            torch.mm(flat, vectors.T)
            torch.mm(c.flatten(0, 1).T, flat)

        start = start_vectors(neurons, features, 0, x)
        floor, product = seconds(plain, 5), seconds(lambda m=matrices, v=vectors: m(v), 5)
        solver = seconds(lambda m=matrices, s=start: lanczos(m, s, 8), 3) / 8
        yield row(f"{name} ({features} to {neurons}), product", f"{floor / product:.2f}", "at least 0.8")
        yield row(f"{name}, a whole Lanczos iteration", f"{floor / solver:.2f}")
