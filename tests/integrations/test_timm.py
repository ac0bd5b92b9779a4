"""timm's own pattern: its factories, NativeScaler, ModelEmaV3 and CheckpointSaver hold one model that grows."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fxgrow import Grower
from tests.integrations.conftest import GROWTH, growing, loader, probe, same

models, utils = pytest.importorskip("timm.models"), pytest.importorskip("timm.utils")
optim, scheduler = pytest.importorskip("timm.optim"), pytest.importorskip("timm.scheduler")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


class Run:
    """The loop of docs/trainers.md."""

    def __init__(self) -> None:
        model = growing()
        self.optimizer = optim.create_optimizer_v2(model, "adamw", lr=1e-2, weight_decay=0.05)
        self.scheduler, _ = scheduler.create_scheduler_v2(self.optimizer, "cosine", num_epochs=4)
        self.ema, self.scaler = utils.ModelEmaV3(model, decay=0.9), utils.NativeScaler(device="cpu")
        self.grower = Grower(model, F.cross_entropy, self.optimizer, ema=self.ema, compile=False, **GROWTH)
        self.model = self.grower.model

    def train(self, epochs: range) -> None:
        for epoch in epochs:
            if self.grower.due(epoch):
                self.grower.grow(probe())
            for inputs, target in loader():
                self.optimizer.zero_grad()
                loss = F.cross_entropy(self.model(inputs), target)
                self.scaler(loss, self.optimizer, clip_grad=1.0, parameters=self.model.parameters())
                self.ema.update(self.model)
            self.scheduler.step(epoch + 1)

    def saver(self, folder: Path) -> Any:
        options = {"args": argparse.Namespace(model="tiny"), "model_ema": self.ema, "amp_scaler": self.scaler}
        return utils.CheckpointSaver(
            self.model, self.optimizer, checkpoint_dir=str(folder), recovery_dir=str(folder), **options
        )


def test_a_run_grows_twice_and_one_that_resumes_by_timms_own_means_ends_alike(tmp_path: Path) -> None:
    run, resumed = Run(), Run()
    saver = run.saver(tmp_path)
    run.train(range(3))
    saver.save_checkpoint(2, metric=1.0)
    written = torch.load(tmp_path / "last.pth.tar", weights_only=False)
    assert written["state_dict"].keys() == run.model.state_dict().keys()
    run.train(range(3, 4))
    path = str(tmp_path / "last.pth.tar")
    models.resume_checkpoint(resumed.model, path, resumed.optimizer, resumed.scaler, log_info=False)
    models.load_checkpoint(resumed.ema.module, path, use_ema=True)
    resumed.scheduler.step(3)
    assert len(resumed.grower.history) == 2
    resumed.train(range(3, 4))
    assert same(resumed.model, run.model)
    assert same(resumed.ema.module, run.ema.module)
