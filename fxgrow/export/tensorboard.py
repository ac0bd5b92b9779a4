"""Scores, depths and growth of a model for TensorBoard."""

from typing import TYPE_CHECKING

import numpy as np

from fxgrow.inspection.model import Model, table_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def log_to_tensorboard(writer: "SummaryWriter", model: Model, step: int) -> None:
    """Write what is known of a model's growth: parameters, depths and scores, as scalars and histograms.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter`` (extra `tensorboard`), or one with its methods.
        model: A GraphModule, or the table of one (`fxgrow.files.read_table`).
        step: The step of the training at which it is.

    Example:
        >>> log_to_tensorboard(SummaryWriter("runs/digits"), grown, step=epoch)  # doctest: +SKIP
    """
    table = table_of(model)
    writer.add_scalar("growth/parameters", table.parameters, step)
    writer.add_scalar("growth/events", len(table.record.history), step)
    for row in {row.site.path: row for row in table.nodes if row.site}.values():
        if row.site is not None and row.site.depth:
            writer.add_scalar(f"depth/{row.site.path}", row.site.depth, step)
        scores = row.annotation.get("scores")
        if row.site is None or not scores or scores["digest"] != table.digest:
            continue  # scores of an earlier graph say nothing of this one
        strongest = min if scores.get("sign", -1) < 0 else max
        writer.add_histogram(f"scores/{row.site.path}", np.asarray(scores["eigenvalues"]), step)
        writer.add_scalar(f"strongest score/{row.site.path}", strongest(scores["eigenvalues"]), step)
