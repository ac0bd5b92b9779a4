"""The Trainer of transformers: a callback that grows a part of its model. Needs the extra `hf`."""

from collections.abc import Iterable
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from fxgrow.errors import PlanError
from fxgrow.training import Grower, Growing


class Growth(TrainerCallback, ExportableState):
    """Grows a part of a Trainer's model at the start of epochs: `at` counts epochs from 0.

    The part is a `fxgrow.training.Growing` from the start, so that ``train(resume_from_checkpoint=)`` and
    ``load_best_model_at_end`` can make of it what a checkpoint says; the model stays a ``PreTrainedModel``, whose loss
    the scores are measured with:

        fxgrow.trace_inside(model, "vit", batch)
        trainer = Trainer(model, arguments, train_dataset=data, callbacks=[Growth("vit", batches, at=(1, 2))])

    Args:
        part: Module path of the part that grows.
        batches: The probe data: dicts of the model's inputs, labels among them; the training data if None.
        options: Those of `fxgrow.Grower`: ``at``, ``budget``, ``operator``, ``max_samples``.

    Attributes:
        grower: The `Grower` of the run, once it has started.
    """

    def __init__(self, part: str, batches: Iterable[Any] | None = None, **options: Any) -> None:
        self.part, self.batches, self.options = part, batches, {"compile": False, **options}
        self.grower: Grower | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up the run: the optimizer exists, and a checkpoint has been loaded.

        Raises:
            PlanError: If what shall grow is no `Growing`.
        """
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        growing = model.get_submodule(self.part)
        if not isinstance(growing, Growing):
            fix = "put it there by fxgrow.trace_inside(model, path, batch) before the Trainer is made"
            raise PlanError(f"it is a {type(growing).__name__}, which cannot grow", where=self.part, fix=fix)
        self.grower = Grower(growing, None, getattr(optimizer, "optimizer", optimizer), within=model, **self.options)
        saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {}).get("progress")
        if saved:
            self.grower.load_progress(saved)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Grow, if it is due."""
        assert self.grower is not None  # training has begun
        epoch = round(state.epoch or 0)
        if self.grower.due(epoch):
            batches = kwargs["train_dataloader"] if self.batches is None else self.batches
            self.grower.grow(batches, context={"epoch": epoch})

    def state(self) -> dict[str, Any]:
        """Return what the checkpoint keeps beside the model and the optimizer."""
        progress = {} if self.grower is None else self.grower.progress()
        return {"args": {"part": self.part}, "attributes": {"progress": progress}}
