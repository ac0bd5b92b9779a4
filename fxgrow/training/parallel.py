"""DistributedDataParallel around a model that grows: made anew in place, so that whoever holds it goes on."""

import weakref
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fxgrow.primitives.data_parallel import active_wrapper
from fxgrow.primitives.unwrapping import layers

#: the hooks that somebody has hung on a module
_HOOKS = tuple(name for name in vars(nn.Module()) if "hook" in name)


def renew(model: nn.Module) -> None:
    """Let DistributedDataParallel, if `model` is in it, reduce the gradients of the parameters that are there by now.

    It averages those that it knew when it was made; others would drift apart without a word. A `Growing` model that has
    run in it does this when it grows. All ranks call it.

    Args:
        model: The wrapped model, which stays the same object, with its options and hooks.
    """
    for layer in layers(model):
        if isinstance(layer, DistributedDataParallel):
            _renew(layer)


def _renew(ddp: DistributedDataParallel) -> None:
    training, hooks = ddp.training, {name: vars(ddp)[name] for name in _HOOKS}
    communication = list(ddp._comm_hooks)
    DistributedDataParallel.__init__(ddp, ddp.module, **_options(ddp))
    vars(ddp).update(hooks)
    ddp.training = training
    for hook, state in communication:
        ddp.register_comm_hook(state, hook)


def _options(ddp: DistributedDataParallel) -> dict[str, Any]:
    by_default = getattr(ddp, "bucket_bytes_cap_default", True)
    names = ("device_ids", "output_device", "dim", "broadcast_buffers", "process_group", "find_unused_parameters",
             "gradient_as_bucket_view", "static_graph", "mixed_precision")  # fmt: skip
    options = {name: getattr(ddp, name) for name in names}
    return {**options, "bucket_cap_mb": None if by_default else ddp.bucket_bytes_cap / (1 << 20)}


class Wrappers:
    """The instances of DistributedDataParallel in which a model has run."""

    def __init__(self) -> None:
        self._known: weakref.WeakSet[DistributedDataParallel] = weakref.WeakSet()

    def note(self, model: nn.Module) -> None:
        """Note that `model` runs, maybe in a wrapper.

        Raises:
            RankError: If the wrapper is older than some of its parameters.
        """
        if DistributedDataParallel._get_active_ddp_module() in self._known:  # type: ignore[no-untyped-call]
            return
        active = active_wrapper(model)
        if active is not None:
            self._known.add(active)

    def renew(self) -> None:
        """Make all of them anew."""
        for known in list(self._known):
            renew(known)
