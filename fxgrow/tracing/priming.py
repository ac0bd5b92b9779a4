"""Buffers that a model builds when it first runs, built before it is traced: the tracer then finds them in place."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class BuiltBuffer:
    """A buffer that a run of the model put in the place of another one."""

    owner: nn.Module
    name: str
    value: Tensor

    def put(self) -> None:
        """Put the buffer in its place."""
        self.owner._buffers[self.name] = self.value


def buffers_built_by(run: Callable[[], None], model: nn.Module) -> tuple[BuiltBuffer, ...]:
    """Run a model and return the buffers outside its state dict that the run replaced.

    ConViT keeps relative positions there for the present number of tokens, and builds them anew where it has changed.
    With the right ones in place the branch that builds them is a decision on sizes, and all around it can be traced.

    Args:
        run: Runs the model on its example inputs; the caller preserves the model's state.
        model: The model.
    """
    before = _passing_buffers(model)
    run()
    after = _passing_buffers(model)
    return tuple(
        BuiltBuffer(module, name, buffer)
        for (module, name), buffer in after.items()
        if (module, name) in before and buffer is not None and not buffer.requires_grad
        if buffer is not before[module, name]
    )


def _passing_buffers(model: nn.Module) -> dict[tuple[nn.Module, str], Tensor | None]:
    return {
        (module, name): module._buffers.get(name)
        for module in model.modules()
        for name in sorted(module._non_persistent_buffers_set)
    }
