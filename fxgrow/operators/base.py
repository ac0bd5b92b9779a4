"""What an operator is: a kind of pseudo-layer, built for some rows of a site."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fxgrow.errors import PlanError
from fxgrow.primitives.linear_map import LinearMap


@dataclass(frozen=True)
class Attachment:
    """All that an operator may know of the place where it is built.

    Args:
        map: The linear map of the site.
        rows: The rows that grow.
        weight: The site's weight, as rows ``(neurons, features)``; new parameters take its dtype and device.
        bias: The site's bias ``(neurons,)``, if it has one.
        directions: One vector ``(rows, features)`` for each chosen row, the eigenvectors of the scores; None where the
            scores have none, and for an operator that reads the site's output: they are directions of its input.
        generator: The only source of randomness.
    """

    map: LinearMap
    rows: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None
    generator: torch.Generator
    directions: Tensor | None = None


class PseudoLayer(nn.Module):
    """The module that growth inserts. Its forward is inlined into the graph, so that its own layers are sites too.

    A subclass builds its children in `__init__`, sets every parameter from the attachment, and is exactly zero at
    insertion; it draws randomness from ``attachment.generator`` alone.
    """

    #: the name in the registry, in edit logs and on the command line
    name: ClassVar[str]
    #: ``"input"``: reads what the site reads, beside it; ``"output"``: reads what the site made (behind its activation,
    #: where it has one), after it
    reads: ClassVar[Literal["input", "output"]]
    #: whether it starts along the eigenvectors of the scores, where they have any
    follows_eigenvectors: ClassVar[bool] = False

    def __init__(self, attachment: Attachment) -> None:
        super().__init__()

    @staticmethod
    @abstractmethod
    def parameter_count(site: LinearMap, rows: int) -> int:
        """Return how many parameters `rows` grown rows of `site` cost."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map the value that is read to the addition, with one channel for each grown row."""


def check_trainable(pseudo_layer: PseudoLayer, example: Tensor) -> None:
    """Refuse a pseudo-layer that no gradient can ever move.

    With all matrices zero (W1 = W2 = 0, say) every gradient is exactly zero, whatever the loss: a saddle that training
    never leaves. One random input and one random cotangent tell.

    Raises:
        PlanError: If the gradient of every parameter is exactly zero.
    """
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        output = pseudo_layer(example)
        cotangent = torch.randn(output.shape, dtype=torch.float64).to(output)
        # The smallest first: a bias or a gate nearly always tells, and no gradient of a matrix takes memory.
        for parameter in sorted(pseudo_layer.parameters(), key=Tensor.numel):
            gradient = torch.autograd.grad(output, parameter, cotangent, retain_graph=True, allow_unused=True)[0]
            if gradient is not None and bool((gradient != 0).any()):
                return
    raise PlanError(
        "all its parameters have zero gradient at insertion, whatever the loss, so it could never train",
        where=f"operator {pseudo_layer.name!r}",
        fix="initialise one of its matrices to something other than zero",
    )


def random_directions(attachment: Attachment, rows: int, features: int) -> Tensor:
    """Return `rows` random unit vectors ``(rows, features)``."""
    drawn = torch.randn(rows, features, generator=attachment.generator, dtype=torch.float64)
    return drawn.div_(drawn.norm(dim=1, keepdim=True)).to(attachment.weight)


def set_rows(module: nn.Module, rows: Tensor | float, bias: Tensor | float = 0.0) -> None:
    """Set the weight of a freshly built Linear or convolution, given as rows, and its bias."""
    with torch.no_grad():
        weight = module.get_parameter("weight")
        _fill(weight, rows.reshape(weight.shape) if isinstance(rows, Tensor) else rows)
        if module._parameters.get("bias") is not None:
            _fill(module.get_parameter("bias"), bias)


def _fill(parameter: Tensor, value: Tensor | float) -> None:
    if isinstance(value, Tensor):
        parameter.copy_(value)
    else:
        parameter.fill_(value)


def as_index(rows: Sequence[int], like: Tensor) -> Tensor:
    """Return `rows` as an int64 tensor on the device of `like`."""
    return torch.tensor(list(rows), dtype=torch.int64, device=like.device)
