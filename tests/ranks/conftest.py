"""Two processes that talk by gloo, started for a test."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

#: Runs a function of a test module, called with its rank and `arguments`, on so many ranks; returns what each returned.
OnRanks = Callable[..., list[Any]]


@pytest.fixture
def on_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnRanks:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))  # where a process that is started finds the module
    runs = []

    def run(function: Callable[..., Any], *arguments: Any, count: int = 2, timeout: float = 120) -> list[Any]:
        folder = tmp_path / f"ranks_{len(runs)}"
        runs.append(folder)
        folder.mkdir()
        arguments = (function, count, str(folder), timeout, arguments)
        multiprocessing.spawn(_on_one_rank, arguments, nprocs=count)  # type: ignore[no-untyped-call]
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]

    return run


def _on_one_rank(
    rank: int, function: Callable[..., Any], count: int, folder: str, timeout: float, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", count)
    limit = timedelta(seconds=timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=limit)
    torch.save(function(rank, *arguments), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
