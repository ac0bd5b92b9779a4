"""A constant of the graph that follows ``.train()`` and ``.eval()``."""

from torch import nn


class ModeValue(nn.Module):
    """Returns one value in training mode and another in evaluation mode.

    Tracing fixes what forward computed from ``self.training``, as the ``dropout_p`` of scaled_dot_product_attention.
    Such an argument is read from one of these instead.

    Example:
        >>> rate = ModeValue(0.1, 0.0)
        >>> rate.train()(), rate.eval()()
        (0.1, 0.0)
    """

    def __init__(self, train: object, evaluation: object) -> None:
        super().__init__()
        self.train_value = train
        self.evaluation_value = evaluation

    def forward(self) -> object:
        """Return the value of the present mode."""
        return self.train_value if self.training else self.evaluation_value

    def extra_repr(self) -> str:
        """Show both values."""
        return f"train={self.train_value!r}, eval={self.evaluation_value!r}"
