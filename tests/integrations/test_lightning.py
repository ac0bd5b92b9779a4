"""A Lightning run grows twice, on one process and on two, and goes on from its checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.errors import PlanError
from tests.integrations.conftest import GROWTH, growing, loader, probe, same

lightning = pytest.importorskip("lightning")
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own advice

OPTIONS = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """As somebody writes it."""

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        self.model = growing() if model is None else model

    def training_step(self, batch: Any, index: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)]


def fit(folder: Path, epochs: int, checkpoint: Path | None = None) -> tuple[Any, Any, Any]:
    from fxgrow.integrations.lightning import Growth

    growth, module = Growth(F.cross_entropy, probe(), new_warmup=6, **GROWTH), Classifier()
    trainer = lightning.Trainer(
        max_epochs=epochs, callbacks=[growth], default_root_dir=folder, enable_checkpointing=False, **OPTIONS
    )
    trainer.fit(module, loader(), ckpt_path=checkpoint, weights_only=False)
    return trainer, module, growth


def test_a_run_grows_twice_and_one_that_goes_on_from_its_checkpoint_ends_alike(tmp_path: Path) -> None:
    trainer, whole, growth = fit(tmp_path, 4)
    assert [event.context["epoch"] for event in growth.grower.history] == [1, 2]
    held = [id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert held == [id(p) for p in whole.model.parameters()]
    assert len(trainer.optimizers[0].state) == len(held)
    trainer, _, _ = fit(tmp_path, 3)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    _, resumed, growth = fit(tmp_path, 4, tmp_path / "run.ckpt")
    assert len(growth.grower.history) == 2
    assert same(resumed, whole)


def test_a_model_that_cannot_grow_is_refused_when_training_starts(tmp_path: Path) -> None:
    from fxgrow.integrations.lightning import Growth

    trainer = lightning.Trainer(max_epochs=1, callbacks=[Growth(F.cross_entropy)], default_root_dir=tmp_path, **OPTIONS)
    with pytest.raises(PlanError, match="model: it is a Linear, which cannot grow; let it be Growing"):
        trainer.fit(Classifier(nn.Linear(6, 3)), loader())


def test_two_processes_of_lightning_keep_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fxgrow.integrations.lightning import Growth

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    trainer = lightning.Trainer(
        max_epochs=4, strategy="ddp_spawn", devices=2, callbacks=[Growth(F.cross_entropy, **GROWTH), Writer(tmp_path)],
        default_root_dir=tmp_path, enable_checkpointing=False, **OPTIONS,
    )  # fmt: skip
    trainer.fit(Classifier(), loader())
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert len(first) > len(growing().state_dict())
    drifted = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert {name.rpartition(".")[2] for name in drifted} <= {
        "running_mean",
        "running_var",
    }


class Writer(lightning.Callback):  # type: ignore[misc, name-defined]
    """Writes what each process ends with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save(pl_module.model.state_dict(), self.folder / f"{trainer.global_rank}.pt")
