"""Models that do something to the process that builds them."""

import os
import time

import torch
from torch import nn


def raises() -> nn.Module:
    raise ValueError("first line\nsecond line")


def hangs() -> nn.Module:
    time.sleep(60)
    return nn.Linear(3, 3)


def dies() -> nn.Module:
    os._exit(7)


def eats() -> nn.Module:
    kept = [torch.ones(2**28) for _ in range(16)]  # 16 GiB
    return nn.Linear(len(kept), 3)


def behaves() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 8))
