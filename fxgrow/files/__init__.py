"""Models as files: one file that anybody can read without running anything, and that rebuilds the model exactly."""

from fxgrow.files.checkpoints import Checkpoint as Checkpoint
from fxgrow.files.checkpoints import Checkpointer as Checkpointer
from fxgrow.files.reading import read_table as read_table
from fxgrow.files.rebuilding import load as load
from fxgrow.files.table import Table as Table
from fxgrow.files.table import describe as describe
from fxgrow.files.writing import check_output as check_output
from fxgrow.files.writing import save as save
