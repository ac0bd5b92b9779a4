"""The processes of a run that torchrun started: each trains on its share of every batch, and the first one writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fxgrow.execution.ranks import Ranks
from fxgrow.training.growing import Wrap


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the other processes, if torchrun started this one and nobody has joined them yet.

    A process that fails leaves without a word: to take leave of the others it would have to wait for them.

    Yields:
        The ranks of the run; one, where there is one process.
    """
    joins = dist.is_available() and dist.is_torchelastic_launched() and not dist.is_initialized()
    if joins:
        if torch.cuda.is_available():
            torch.cuda.set_device(own_gpu())
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    yield Ranks()
    if joins:
        dist.destroy_process_group()


def own_gpu() -> torch.device:
    """Return the GPU of this process: torchrun counts the processes of a machine."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def data_parallel(*, some_idle: bool = False) -> Wrap | None:
    """Return what lets all ranks train one model; None for one process.

    Args:
        some_idle: Whether there are parameters that get no gradient.
    """
    if Ranks().count == 1:
        return None

    def wrap(model: nn.Module) -> nn.Module:
        return DistributedDataParallel(model, find_unused_parameters=some_idle)

    return wrap
