from collections.abc import Callable
from typing import Any

import pytest

from fxgrow.runs import Settings, override
from fxgrow.runs.reading import settings_from

TINY = {
    "epochs": 3,
    "compile": False,
    "device": "cpu",
    "data": {"source": "digits", "batch_size": 64, "images": 256},
    "model": {
        "name": "timm:vit_tiny_patch16_224",
        "arguments": {
            "img_size": 8,
            "in_chans": 1,
            "num_classes": 10,
            "patch_size": 4,
            "embed_dim": 16,
            "depth": 4,
            "num_heads": 2,
            "mlp_ratio": 2.0,
            "proj_drop_rate": 0.1,
        },
    },
}


class Silent:
    """A watcher that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.epochs: list[Any] = []
        self.losses: list[float] = []

    def step(self, epoch: int, loss: float) -> None:
        self.losses.append(loss)

    def epoch(self, metrics: Any) -> None:
        self.epochs.append(metrics)

    def grown(self, event: Any) -> None:
        self.events.append(event)


@pytest.fixture
def tiny() -> Callable[..., Settings]:
    """Return the settings of a tiny run on digits, with changes by dotted names."""

    def make(changes: dict[str, Any] | None = None) -> Settings:
        return settings_from(override(TINY, changes or {}))

    return make


@pytest.fixture
def watcher() -> Silent:
    return Silent()
