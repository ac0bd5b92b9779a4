"""What is measured once an epoch, and how it is written."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fxgrow.files.atomic import whole_or_nothing


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.csv. Epoch 0 is the model before training."""

    model: str
    epoch: int
    parameters: int
    flops: int  #: for one image
    learning_rate: float
    train_loss: float
    test_loss: float
    test_accuracy: float
    seconds: float  #: since the model's training began


def write_metrics(path: Path, lines: Iterable[EpochMetrics]) -> None:
    """Write one line for each epoch.

    Raises:
        FileError: If the file cannot be written; an older one is there then.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(EpochMetrics)])
    writer.writeheader()
    writer.writerows(dataclasses.asdict(line) for line in lines)
    with whole_or_nothing(path) as stream:
        stream.write(text.getvalue().encode())


def milestones(metrics: Sequence[EpochMetrics]) -> list[tuple[str, EpochMetrics]]:
    """Return, with names, the start and the end of one model's training, and the moment after each growth event.

    What was measured before an event holds after it, but for the model's size.
    """
    grows = [(old, new) for old, new in pairwise(metrics) if new.parameters > old.parameters]
    events = [
        (f"event {number}", dataclasses.replace(old, parameters=new.parameters, flops=new.flops))
        for number, (old, new) in enumerate(grows, start=1)
    ]
    return [("start", metrics[0]), *events, ("end", metrics[-1])]
