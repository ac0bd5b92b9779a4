"""Four ranks train one model through growth, beside one process with all of the data."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fxgrow.curvature import Scores, analyze
from fxgrow.testing import Draws
from fxgrow.tracing import trace
from fxgrow.training import Grower, Shard

STEPS, BATCHES, SAMPLES, EVENTS = 5, 4, 96, (1, 3)
#: what makes of the model what each rank trains
WRAPS: dict[str, Callable[[], Callable[[nn.Module], nn.Module]]] = {
    "DistributedDataParallel": lambda: DistributedDataParallel,
    "FSDP2": Shard,
}


@dataclass(frozen=True)
class Ended:
    """What a run ended with."""

    events: int
    weights: Tensor  #: all of them, one after the other


def largest_differences(count: int) -> dict[str, float]:
    """Return, for scores and for each kind of training, the largest difference of any rank from one process alone."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_on_one_rank, (count, folder), nprocs=count)  # type: ignore[no-untyped-call]
        of_ranks = [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(count)]
    alone, scores = _trained(None, slice(None)), _scores(slice(None))
    assert all(ended.events == alone.events == len(EVENTS) for _, runs in of_ranks for ended in runs.values())
    found = {"eigen-scores": max(float((own - scores).abs().max()) for own, _ in of_ranks)}
    for name in WRAPS:
        found[name] = max(float((runs[name].weights - alone.weights).abs().max()) for _, runs in of_ranks)
    return found


def _on_one_rank(rank: int, count: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", count), rank=rank, world_size=count)
    share = slice(rank * BATCHES // count, (rank + 1) * BATCHES // count)
    runs = {name: _trained(wrap(), share) for name, wrap in WRAPS.items()}
    torch.save((_scores(share), runs), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _batches(step: int = 0) -> list[tuple[Tensor, Tensor]]:
    draws = Draws(20 + step)
    return [(draws.normal(SAMPLES, 6), torch.arange(SAMPLES) % 3) for _ in range(BATCHES)]


def _model() -> torch.fx.GraphModule:
    made, draws = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 8), nn.GELU(), nn.Linear(8, 3)), Draws(5)
    with torch.no_grad():
        for parameter in made.double().parameters():
            parameter.copy_(0.4 * draws.normal(*parameter.shape))
    return trace(made, _batches()[0][0])


def _scores(share: slice) -> Tensor:
    scores: Scores = analyze(_model(), F.cross_entropy, _batches()[share], iterations=16, settled=None)
    return torch.cat([site.values for site in scores.values()])


def _trained(wrap: Callable[[nn.Module], nn.Module] | None, share: slice) -> Ended:
    traced = _model()
    optimizer = torch.optim.AdamW(traced.parameters(), lr=1e-2)
    grower = Grower(traced, F.cross_entropy, optimizer, wrap=wrap, budget=0.8, at=EVENTS, compile=False)
    for step in range(STEPS):
        if grower.due(step):
            grower.grow(_batches()[share])
        inputs, target = (torch.cat(values) for values in zip(*_batches(step)[share], strict=True))
        optimizer.zero_grad()
        F.cross_entropy(grower.model(inputs), target).backward()
        optimizer.step()
    with grower.model.whole():
        weights = torch.cat([parameter.detach().flatten() for parameter in grower.graph_module.parameters()])
    return Ended(len(grower.history), weights)
