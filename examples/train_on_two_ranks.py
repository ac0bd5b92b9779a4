"""Grow in the middle of a training on two ranks, with DistributedDataParallel over gloo on the CPU.

Run: python examples/train_on_two_ranks.py    (seconds; starts two processes)
"""

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fxgrow

RANKS, STEPS, GROW_AT = 2, 20, 10


def main() -> None:
    """Start the ranks and wait for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(train, args=(port,), nprocs=RANKS)


def train(rank: int, port: int) -> None:
    """Train on one rank; all of them grow the same neurons at the same step."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    torch.manual_seed(0)  # one model for all
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 4))
    data = torch.Generator().manual_seed(rank)  # and data of its own for each
    shared = torch.Generator().manual_seed(100)
    probe = [batch(shared) for _ in range(4)]  # the same scores, and so the same neurons, on all ranks

    traced = fxgrow.trace(model, torch.zeros(2, 16))
    optimizer = torch.optim.AdamW(traced.parameters(), lr=1e-2)
    grower = fxgrow.Grower(
        traced, F.cross_entropy, optimizer, budget=0.3, at=[GROW_AT], wrap=DistributedDataParallel, compile=False
    )
    for step in range(STEPS):
        if grower.due(step):
            grower.grow(probe, context={"step": step})
        inputs, target = batch(data)
        optimizer.zero_grad()
        F.cross_entropy(grower.model(inputs), target).backward()  # the gradients of both ranks, averaged
        optimizer.step()

    total = sum(parameter.detach().double().sum() for parameter in traced.parameters()).view(1)
    sums = [torch.zeros_like(total) for _ in range(RANKS)]
    dist.all_gather(sums, total)
    if rank == 0:
        event = grower.history[0]
        print(f"{event.parameters_before:,} -> {event.parameters_after:,} parameters at step {GROW_AT}")
        print(f"both ranks have the same weights: {bool(sums[0] == sums[1])}")
    dist.destroy_process_group()


def batch(data: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random inputs and which of their first four numbers is the largest."""
    inputs = torch.randn(64, 16, generator=data)
    return inputs, inputs[:, :4].argmax(dim=1)


if __name__ == "__main__":
    main()
