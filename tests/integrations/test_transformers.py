"""The Trainer of transformers grows a part of its model twice, and resumes from its own checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.record.record import record_of
from fxgrow.testing import Draws
from tests.integrations.conftest import same

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library's own

SIZES = {
    "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 8,
    "patch_size": 4, "num_labels": 3,
}  # fmt: skip


def images(count: int, seed: int) -> torch.Tensor:
    return Draws(seed, torch.float32).normal(count, 3, 8, 8)


def model() -> Any:
    torch.manual_seed(0)
    made = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES))
    made.accepts_loss_kwargs = False  # the Trainer's count of items would be an input that was not traced
    fxgrow.trace_inside(made, "vit", {"pixel_values": images(4, 1), "labels": torch.arange(4) % 3})
    return made


def trainer(folder: Path, epochs: int, made: Any = None) -> Any:
    from fxgrow.integrations.transformers import Growth

    probe = [{"pixel_values": images(130, seed), "labels": torch.arange(130) % 3} for seed in (2, 3)]
    growth = Growth("vit", probe, at=(1, 2), budget=0.2, max_samples=260, include=["*.mlp.*", "*attention*"])
    arguments = transformers.TrainingArguments(
        str(folder), num_train_epochs=epochs, per_device_train_batch_size=4, save_strategy="epoch", report_to=[],
        use_cpu=True, disable_tqdm=True, logging_strategy="no", lr_scheduler_type="constant", learning_rate=1e-3,
    )  # fmt: skip
    data = [{"pixel_values": image, "labels": index % 3} for index, image in enumerate(images(8, 4))]
    return transformers.Trainer(made or model(), arguments, train_dataset=data, callbacks=[growth])


def test_a_run_grows_twice_and_one_that_resumes_from_its_checkpoint_ends_alike(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", 4)
    whole.train()
    assert type(whole.model).__name__ == "ViTForImageClassification"
    assert [event.context["epoch"] for event in record_of(whole.model.vit.graph_module).history] == [1, 2]
    assert len(whole.optimizer.optimizer.state) == len(list(whole.model.parameters()))
    resumed = trainer(tmp_path / "whole", 4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))  # behind the third of four epochs
    assert same(resumed.model, whole.model)
    loaded = model()
    loaded.load_state_dict(whole.model.state_dict())
    assert torch.equal(loaded.eval()(images(2, 5)).logits, whole.model.eval()(images(2, 5)).logits)


def test_a_part_that_cannot_grow_is_refused_when_training_begins(tmp_path: Path) -> None:
    made = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES))
    with pytest.raises(PlanError, match="vit: it is a ViTModel, which cannot grow; put it there"):
        trainer(tmp_path, 1, made).train()


def test_the_part_is_a_module_of_the_model() -> None:
    assert isinstance(model().vit, nn.Module)
