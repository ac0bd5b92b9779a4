"""What can be looked at: a traced model, or the table of one."""

from typing import TYPE_CHECKING, TypeAlias, Union

from fxgrow.files.table import Table

if TYPE_CHECKING:
    import torch.fx as fx

#: a GraphModule, or what `fxgrow.files.read_table` returned
Model: TypeAlias = Union[Table, "fx.GraphModule"]


def table_of(model: Model) -> Table:
    """Return the table of a model."""
    if isinstance(model, Table):
        return model
    from fxgrow.files.describing import describe  # which imports torch; a file's table is looked at without

    return describe(model)
