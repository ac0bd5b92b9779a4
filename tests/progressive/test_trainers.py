"""Trainers, averages, scalers and two processes go on through an advance, without code of their own."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fxgrow.progressive import Progressive
from tests.progressive.conftest import Model, data, fill, model


def single() -> Progressive:
    return Progressive(fill(Model()), data()[0].float(), depth=0.5)


def test_two_processes_train_as_one_through_an_advance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))  # where a process that is started finds this module
    multiprocessing.spawn(_train_on_one_rank, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first if name != "fxgrow_stage")
    alone = Progressive(model(), data()[0], depth=0.5)
    _train(alone, alone, slice(None))
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(first[name], value, rtol=1e-9, atol=1e-9)


def _train_on_one_rank(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    growing = Progressive(model(), data()[0], depth=0.5)
    wrapped = DistributedDataParallel(growing, find_unused_parameters=True)
    _train(growing, wrapped, slice(rank, None, 2))
    torch.save(growing.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _train(growing: Progressive, called: nn.Module, part: slice) -> None:
    optimizer = torch.optim.SGD(growing.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(6):
        inputs, target = data(seed=step)
        optimizer.zero_grad()
        F.cross_entropy(called(inputs[part]), target[part]).backward()
        optimizer.step()
        if step == 2:
            growing.advance()


def test_a_gradient_scaler_and_a_scheduler_go_on() -> None:
    growing = single()
    optimizer = torch.optim.AdamW(growing.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    scaler = torch.amp.GradScaler("cpu")
    for step in range(6):
        inputs, target = data(seed=step)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(growing(inputs.float()), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        if step == 2:
            growing.advance()
            assert growing.model.blocks[1].fc1.weight not in optimizer.state
    assert optimizer.state[growing.model.blocks[1].fc1.weight]["step"] == 3
    assert optimizer.state[growing.model.head.weight]["step"] == 6


def test_averages_of_timm_go_on() -> None:
    utils = pytest.importorskip("timm.utils")
    growing = single()
    averages = [utils.ModelEmaV2(growing, decay=0.5), utils.ModelEmaV3(growing, decay=0.5)]
    optimizer = torch.optim.AdamW(growing.parameters(), lr=1e-2)
    for step in range(4):
        inputs, target = data(seed=step)
        optimizer.zero_grad()
        F.cross_entropy(growing(inputs.float()), target).backward()
        optimizer.step()
        for average in averages:
            average.update(growing)
        if step == 1:
            growing.advance()
    assert [average.module.stage for average in averages] == [1, 1]
    inputs = data()[0].float()
    for average in averages:
        assert torch.equal(average.module.eval()(inputs), average.module.model(inputs))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_lightning_goes_on(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Trained(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.growing = single()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return F.cross_entropy(self.growing(batch[0].float()), batch[1])

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.growing.advance()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.growing.parameters(), lr=1e-2)

    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=2, default_root_dir=tmp_path, enable_checkpointing=False, **options)
    trained = Trained()
    trainer.fit(trained, torch.utils.data.DataLoader([data(1, seed) for seed in range(4)], batch_size=None))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    state = trainer.optimizers[0].state
    assert state[trained.growing.model.blocks[1].fc1.weight]["step"] == 4
    assert state[trained.growing.model.head.weight]["step"] == 8
    again = Trained()
    again.load_state_dict(torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"])
    assert again.growing.stage == 1
    assert torch.equal(again.growing(data()[0].float()), trained.growing(data()[0].float()))


def test_the_trainer_of_transformers_goes_on(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_labels=3,
    )  # fmt: skip
    vit = transformers.ViTForImageClassification(config)
    images = torch.linspace(-1, 1, 8 * 3 * 64).sin().reshape(8, 3, 8, 8)
    samples = [{"pixel_values": image, "labels": index % 3} for index, image in enumerate(images)]
    growing = Progressive(vit, {"pixel_values": images[:2], "labels": torch.tensor([0, 1])}, depth=0.5)

    class Advancing(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_epoch_begin(self, arguments: Any, state: Any, control: Any, **others: Any) -> None:
            if round(state.epoch) == 1:
                growing.advance()

    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=4, save_strategy="epoch", report_to=[],
        use_cpu=True, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(growing, arguments, train_dataset=samples, callbacks=[Advancing()])
    trainer.train()
    assert growing.stage == 1
    fresh = transformers.ViTForImageClassification(config)
    fresh.load_state_dict(vit.state_dict(), strict=True)
    growing.eval()
    assert torch.equal(fresh.eval()(images).logits, growing(pixel_values=images, labels=torch.arange(8) % 3)["logits"])
