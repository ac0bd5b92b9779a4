"""The formulas, counted on two ranks: what a small MLP reduces, and the FLOPs of its solver and its passes."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fxgrow.curvature import analyze
from fxgrow.execution.ranks import Ranks
from fxgrow.testing import Draws
from fxgrow.tracing import trace
from many_ranks.costs import Linear, orthogonal_flops, product_flops, reduced_numbers

SITES = (Linear(48, 24), Linear(40, 48))
SAMPLES, ITERATIONS, CLASSES = 256, 8, 5


@dataclass(frozen=True)
class Counted:
    """What was counted on one rank, and what the formulas say."""

    reduced: int  #: numbers in the products that were reduced
    reduced_formula: int
    other: int  #: numbers that were reduced beside them: counts, means, error bars
    flops: int  #: of the solver: products, quotients, orthogonalisation
    flops_formula: int


def count_on_two_ranks() -> list[Counted]:
    """Return what each of two gloo processes counted."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_on_one_rank, (folder,), nprocs=2)  # type: ignore[no-untyped-call]
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _on_one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    torch.save(_counted(rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _counted(rank: int) -> Counted:
    first, second = (nn.Linear(site.features, site.neurons) for site in SITES)
    model = nn.Sequential(first, nn.GELU(), second, nn.GELU(), nn.Linear(second.out_features, CLASSES))
    draws = Draws(rank, torch.float32)
    batches = [(draws.normal(SAMPLES // 2, SITES[0].features), torch.arange(SAMPLES // 2) % CLASSES) for _ in range(2)]
    traced = trace(model, batches[0][0])
    sizes: list[torch.Size] = []
    whole = Ranks._reduced

    def reduced(self: Ranks, tensor: Tensor, operation: object) -> Tensor:
        sizes.append(tensor.shape)
        return whole(self, tensor, operation)

    Ranks._reduced = reduced  # type: ignore[method-assign]
    options = {"sites": ["0", "2"], "settled": None}
    found = [_flops(traced, batches, options, iterations) for iterations in (1, 1 + ITERATIONS)]
    Ranks._reduced = whole  # type: ignore[method-assign]
    matrices = {torch.Size((site.neurons, site.features)) for site in SITES}
    numbers = [size.numel() for size in sizes if size in matrices]
    return Counted(
        reduced=sum(numbers),
        reduced_formula=sum(reduced_numbers(site, n) for site in SITES for n in (1, 1 + ITERATIONS)),
        other=sum(size.numel() for size in sizes) - sum(numbers),
        flops=found[1] - found[0],  # passes and what else is done once cancel
        flops_formula=sum(_solver_flops(site, 1 + ITERATIONS) - _solver_flops(site, 1) for site in SITES),
    )


def _solver_flops(site: Linear, iterations: int) -> int:
    return product_flops(site, SAMPLES, iterations) + orthogonal_flops(site, iterations)


def _flops(traced: torch.fx.GraphModule, batches: list[tuple[Tensor, Tensor]], options: dict, iterations: int) -> int:
    with _Flops() as counter:
        analyze(traced, F.cross_entropy, batches, iterations=iterations, **options)
    return counter.total


class _Flops(TorchDispatchMode):
    """Adds up torch's FLOPs of each operation; torch's own counter refuses `torch.autograd.grad`, and in-place ones.

    torch counts matrix products alone; a projection that is subtracted is an inner product and an ``addcmul``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func._overloadpacket).rpartition(".")[2].rstrip("_")
        count = flop_registry.get(getattr(torch.ops.aten, name, None))
        self.total += 0 if count is None else count(*args, **(kwargs or {}), out_val=out)
        self.total += 4 * out.numel() if name == "addcmul" else 0
        return out
