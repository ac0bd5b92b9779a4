"""The metrics of a run for TensorBoard, with the extra of that name."""

from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from fxgrow.errors import SettingsError
from fxgrow.runs.growing import RunEvent
from fxgrow.runs.metrics import EpochMetrics


class TensorBoard:
    """Writes the metrics of each epoch, and each growth event, into a folder: a `Watcher` and a context manager.

    Raises:
        SettingsError: If TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            fix = "pip install 'fxgrow[tensorboard]', or set tensorboard=false"
            raise SettingsError("TensorBoard is not installed", where="tensorboard", fix=fix) from error
        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.close()

    def step(self, epoch: int, loss: float) -> None:
        """Do nothing: an epoch's mean tells more."""

    def epoch(self, metrics: EpochMetrics) -> None:
        """Write one point of each curve."""
        values = {name: value for name, value in asdict(metrics).items() if name not in ("model", "epoch")}
        for name, value in values.items():
            self._writer.add_scalar(name, value, metrics.epoch)
        self._writer.flush()

    def grown(self, event: RunEvent) -> None:
        """Write which event it was, and the parameters that came."""
        added = event.parameters_after - event.parameters_before
        self._writer.add_scalar("parameters_added", added, event.epoch)
