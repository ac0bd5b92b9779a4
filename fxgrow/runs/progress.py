"""What is seen while a run trains: a progress bar on a terminal, one line an epoch in a pipe."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fxgrow.runs.growing import RunEvent
from fxgrow.runs.metrics import EpochMetrics
from fxgrow.runs.report import event_text
from fxgrow.runs.run import Run

_SMOOTHING = 0.95  #: of the loss that is shown, over steps


class TrainingProgress:
    """Shows one model's training: a `Watcher` and a context manager.

    Args:
        console: Where to write.
        run: What is trained.
    """

    def __init__(self, console: Console, run: Run) -> None:
        self._console, self._name, self._epochs = console, run.name, run.settings.epochs
        self._loss, self._accuracy = 0.0, ""
        columns = (
            TextColumn("{task.fields[model]} epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("loss {task.fields[loss]:.3f}{task.fields[accuracy]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        epoch = self._of(run.step // run.batches.steps)
        self._task = self._bar.add_task(
            "train", total=run.steps, completed=run.step, model=run.name, epoch=epoch, loss=0.0, accuracy=""
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, epoch: int, loss: float) -> None:
        """Move the bar on by one step."""
        self._loss = loss if not self._loss else _SMOOTHING * self._loss + (1 - _SMOOTHING) * loss
        self._bar.update(self._task, advance=1, epoch=self._of(epoch + 1), loss=self._loss, accuracy=self._accuracy)

    def epoch(self, metrics: EpochMetrics) -> None:
        """Show the accuracy; in a pipe, write a line."""
        self._accuracy = f"  accuracy {metrics.test_accuracy:.1%}"
        if not self._console.is_terminal:
            left = metrics.seconds / metrics.epoch * (self._epochs - metrics.epoch)
            self._console.print(
                f"{self._name} epoch {self._of(metrics.epoch)}  loss {metrics.train_loss:.3f}"
                f"  accuracy {metrics.test_accuracy:.1%}  {left:.0f} s left"
            )

    def grown(self, event: RunEvent) -> None:
        """Write what grew, above the bar."""
        self._console.print(event_text(event))

    def _of(self, epoch: int) -> str:
        return f"{epoch:>{len(str(self._epochs))}}/{self._epochs}"
