"""Running a model without leaving a trace on it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from fxgrow.execution.randomness import preserved_randomness


@contextmanager
def preserved(*modules: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Restore everything that running `modules` may move, also after an error.

    That is train/eval mode, the values of parameters (an Embedding with ``max_norm`` scales them) and of buffers
    (BatchNorm statistics), plain attributes and what lies in their lists
    and dicts (models cache values there), ``.grad``, and the global random state.

    Args:
        modules: The models that will be run.
        seed: If given, the random state is seeded with it on entering.
    """
    with ExitStack() as stack:
        stack.enter_context(preserved_randomness(seed))
        snapshots = [_Snapshot(module) for root in modules for module in root.modules()]
        try:
            yield
        finally:
            for snapshot in snapshots:
                snapshot.restore()


class _Snapshot:
    """The state of one module, without its children."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.attributes = {name: (value, _contents(value)) for name, value in module.__dict__.items()}
        tensors = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
        self.tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self.gradients = [(p, p.grad) for p in module._parameters.values() if p is not None]

    def restore(self) -> None:
        self.module.__dict__.clear()
        self.module.__dict__.update({name: value for name, (value, _) in self.attributes.items()})
        for value, contents in self.attributes.values():
            _refill(value, contents)
        for tensor, value in self.tensors:
            if not torch.equal(tensor, value):  # batch_norm writes its statistics without a trace in _version
                with torch.no_grad():
                    tensor.copy_(value)
        for parameter, gradient in self.gradients:
            if parameter.grad is not gradient:
                parameter.grad = gradient


def _contents(value: Any) -> Any:
    return value.copy() if type(value) in (dict, list, set) else None


def _refill(value: Any, contents: Any) -> None:
    if contents is None:
        return
    value.clear()
    value.extend(contents) if isinstance(value, list) else value.update(contents)
