"""Accelerate keeps a model that grows, and brings it back from what `save_state` wrote."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fxgrow import Grower
from tests.integrations.conftest import GROWTH, growing, loader, probe, same

accelerate = pytest.importorskip("accelerate")


class Run:
    """The loop of docs/trainers.md."""

    def __init__(self) -> None:
        model = growing()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
        self.accelerator = accelerate.Accelerator(cpu=True)
        self.grower = Grower(model, F.cross_entropy, optimizer, **GROWTH)
        prepared = self.accelerator.prepare(model, optimizer, loader(), scheduler)
        self.model, self.optimizer, self.loader, self.scheduler = prepared

    def train(self, epochs: range) -> None:
        for epoch in epochs:
            if self.grower.due(epoch):
                self.grower.grow(probe())
            for inputs, target in self.loader:
                self.accelerator.backward(F.cross_entropy(self.model(inputs), target))
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.scheduler.step()


def test_a_run_grows_twice_and_one_that_loads_its_state_ends_alike(tmp_path: Path) -> None:
    run, resumed = Run(), Run()
    run.train(range(3))
    run.accelerator.save_state(str(tmp_path))
    run.train(range(3, 4))
    resumed.accelerator.load_state(str(tmp_path))
    assert len(run.grower.history) == len(resumed.grower.history) == 2
    resumed.train(range(3, 4))
    assert same(resumed.grower.model, run.grower.model)
