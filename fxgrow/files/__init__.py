"""Models as files: one file that anybody can read without running anything, and that rebuilds the model exactly.

Names are resolved on first use: a file's table is read without torch.
"""

from typing import TYPE_CHECKING

from fxgrow.lazy import attach

if TYPE_CHECKING:
    from fxgrow.files.atomic import check_output as check_output
    from fxgrow.files.checkpoints import Checkpoint as Checkpoint
    from fxgrow.files.checkpoints import Checkpointer as Checkpointer
    from fxgrow.files.describing import describe as describe
    from fxgrow.files.rebuilding import load as load
    from fxgrow.files.table import Table as Table
    from fxgrow.files.table_reading import read_table as read_table
    from fxgrow.files.writing import save as save

_HOMES = {
    "Checkpoint": "fxgrow.files.checkpoints",
    "Checkpointer": "fxgrow.files.checkpoints",
    "Table": "fxgrow.files.table",
    "check_output": "fxgrow.files.atomic",
    "describe": "fxgrow.files.describing",
    "load": "fxgrow.files.rebuilding",
    "read_table": "fxgrow.files.table_reading",
    "save": "fxgrow.files.writing",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = attach(__name__, _HOMES)
