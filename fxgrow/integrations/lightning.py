"""Lightning: a callback that grows a model in its LightningModule. Needs the extra `trainers`."""

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl

from fxgrow.curvature.capture import LossFunction
from fxgrow.errors import PlanError
from fxgrow.training import Grower, Growing


class Growth(pl.Callback):
    """Grows a model at the start of epochs: `at` counts ``trainer.current_epoch``.

    The LightningModule holds a `fxgrow.training.Growing` from the start, so that ``fit(ckpt_path=)`` can make of the
    fresh model what the checkpoint says:

        class Classifier(L.LightningModule):
            def __init__(self):
                super().__init__()
                self.model = Growing(fxgrow.trace(make_model(), images))

        trainer = L.Trainer(callbacks=[Growth(F.cross_entropy, at=(10, 20))])

    Under a strategy with several processes each of them measures on its own share of the data.

    Args:
        loss_fn: The loss of the model's output and the target, as for `fxgrow.Grower`.
        batches: The probe data, read anew at each event; the trainer's own training data if None.
        part: The attribute of the LightningModule that grows, a module path.
        options: Those of `fxgrow.Grower`: ``at``, ``budget``, ``operator``, ``max_samples``.

    Attributes:
        grower: The `Grower` of the run, once it has started.
    """

    def __init__(
        self, loss_fn: LossFunction, batches: Iterable[Any] | None = None, *, part: str = "model", **options: Any
    ) -> None:
        self.loss_fn, self.batches, self.part, self.options = loss_fn, batches, part, options
        self.grower: Grower | None = None
        self._progress: Mapping[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up the run: the optimizers exist, and a checkpoint has been loaded.

        Raises:
            PlanError: If what shall grow is no `Growing`.
        """
        growing = pl_module.get_submodule(self.part)
        if not isinstance(growing, Growing):
            fix = "let it be Growing(fxgrow.trace(model, inputs)) when the LightningModule is made"
            raise PlanError(f"it is a {type(growing).__name__}, which cannot grow", where=self.part, fix=fix)
        self.grower = Grower(growing, self.loss_fn, trainer.optimizers, **self.options)
        if self._progress is not None:
            self.grower.load_progress(self._progress)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Grow, if it is due."""
        assert self.grower is not None  # training has started
        if self.grower.due(trainer.current_epoch):
            batches: Any = trainer.train_dataloader if self.batches is None else self.batches
            self.grower.grow(batches, context={"epoch": trainer.current_epoch})

    def state_dict(self) -> dict[str, Any]:
        """Return what the checkpoint keeps beside the model and the optimizers."""
        return {} if self.grower is None else self.grower.progress()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, when training starts."""
        self._progress = state_dict or None
