"""Grow inside a LightningModule: the trainer, its checkpoints and its optimizer go on.

Run: python examples/grow_in_lightning.py    (seconds)
"""

import logging
import tempfile
import warnings

import lightning
import torch
import torch.nn.functional as F
from torch import nn

import fxgrow

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


class Classifier(lightning.LightningModule):
    """A small network that grows before its second and third epoch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 4))
        traced = fxgrow.trace(model, torch.zeros(2, 16))
        self.optimizer = torch.optim.AdamW(traced.parameters(), lr=1e-2)
        options = {"budget": 0.4, "at": (1, 2), "compile": False}
        self.grower = fxgrow.Grower(traced, F.cross_entropy, self.optimizer, **options)
        self.network = self.grower.model  # one module for the whole run, whose inside grows

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer that the grower extends."""
        return self.optimizer

    def on_train_epoch_start(self) -> None:
        """Grow where that is due, by scores on training data."""
        if self.grower.due(self.current_epoch):
            report = self.grower.grow(batches(seed=100), context={"epoch": self.current_epoch})
            print(f"epoch {self.current_epoch}: now {report.event.parameters_after:,} parameters")

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        """Return the loss."""
        return F.cross_entropy(self.network(batch[0]), batch[1])


def batches(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return random inputs, with which of their first four numbers is the largest."""
    inputs = torch.randn(8, 64, 16, generator=torch.Generator().manual_seed(seed))
    return [(batch, batch[:, :4].argmax(dim=1)) for batch in inputs]


def main() -> None:
    """Train three epochs, and go on from the checkpoint in a fresh module."""
    classifier = Classifier()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    loader = torch.utils.data.DataLoader(batches(seed=0), batch_size=None)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(max_epochs=3, enable_checkpointing=False, **quiet)
        trainer.fit(classifier, loader)
        trainer.save_checkpoint(f"{folder}/run.ckpt")
        again = Classifier()
        again.load_state_dict(torch.load(f"{folder}/run.ckpt", weights_only=True)["state_dict"])
    inputs, target = batches(seed=1)[0]
    print(f"loss on other data {F.cross_entropy(classifier.network(inputs), target).item():.3f}")
    print(f"the same from the checkpoint: {torch.equal(again.network(inputs), classifier.network(inputs))}")


if __name__ == "__main__":
    main()
