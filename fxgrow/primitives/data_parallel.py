"""Whether DistributedDataParallel reduces the gradients of all that runs in it."""

from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fxgrow.errors import RankError


def active_wrapper(model: nn.Module) -> DistributedDataParallel | None:
    """Return the DistributedDataParallel in whose forward `model` runs at the moment, if there is one.

    Raises:
        RankError: If that is older than some of the parameters of `model`.
    """
    active: DistributedDataParallel | None = DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    if active is not None:
        reduced = {id(parameter) for parameter in active._module_parameters}
        name = next((n for n, p in model.named_parameters() if p.requires_grad and id(p) not in reduced), None)
        if name is not None:
            fix = "call fxgrow.training.renew(wrapped_model) on all ranks when the model grew"
            raise RankError("DistributedDataParallel does not know it and would let it drift", where=name, fix=fix)
    return active


def watch_wrappers(model: nn.Module) -> None:
    """Let a model refuse to run in a DistributedDataParallel that does not know all of its parameters."""
    if dist.is_available() and dist.is_initialized():
        model.register_forward_pre_hook(_refuse_older_wrapper)


def _refuse_older_wrapper(model: nn.Module, _: Any) -> None:
    active_wrapper(model)
