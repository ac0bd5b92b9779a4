"""FSDP2 (`fully_shard`) around a model that grows.

torch cannot take `fully_shard` off a module again. So what is sharded is a copy of the graph's modules, made anew after
each event; the graph itself holds the same sharded parameters, which optimizers and state dicts see. For an event the
graph gets whole parameters, on every rank; moments stay sharded as they are, and are never gathered.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch.distributed as dist
import torch.fx as fx
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from fxgrow.errors import PlanError
from fxgrow.execution.inputs import device_of
from fxgrow.optimizers import Optimizers, listed
from fxgrow.training.blocks import cut

#: new parameters by the identity of the old ones
Exchange = Mapping[int, nn.Parameter]


class Shard:
    """The ``wrap=`` of a `Grower` for FSDP2: one group of parameters for each block of the graph.

        grower = Grower(traced, loss_fn, optimizer, wrap=Shard(mesh), compile=False)

    Args:
        mesh: The ranks; all of them if left out.
        options: Those of `torch.distributed.fsdp.fully_shard`: ``mp_policy``, ``reshard_after_forward``.
    """

    def __init__(self, mesh: DeviceMesh | None = None, **options: Any) -> None:
        self.mesh, self.options = mesh, options

    def __call__(self, graph_module: nn.Module) -> nn.Module:
        """Return a sharded copy, which computes the same.

        Raises:
            PlanError: If the graph is compiled.
        """
        if not isinstance(graph_module, fx.GraphModule):
            fix = "give the Grower compile=False"
            raise PlanError("its blocks run as compiled code, which cannot be sharded", where="Shard", fix=fix)
        mesh = self.mesh or init_device_mesh(device_of(graph_module).type, (dist.get_world_size(),))
        held: list[Tensor] = [*graph_module.parameters(), *graph_module.buffers()]
        runner = copy.deepcopy(graph_module, {id(tensor): tensor for tensor in held})  # modules only
        for group in _groups(graph_module):
            fully_shard([runner.get_submodule(path) for path in group], mesh=mesh, **self.options)
        fully_shard(runner, mesh=mesh, **self.options)
        return runner


def _groups(graph_module: fx.GraphModule) -> Iterator[list[str]]:
    """Yield the paths of the modules of each block that hold parameters; what several blocks share is left out."""
    paths = [(piece.label, set(piece.leaves.values())) for piece in cut(graph_module)]
    for label, own in paths:
        group = [path for path in sorted(own) if sum(path in other for _, other in paths) == 1]
        group = [path for path in group if next(graph_module.get_submodule(path).parameters(), None) is not None]
        if label and group:
            yield group


def adopt_shards(graph_module: fx.GraphModule, runner: nn.Module, optimizers: Optimizers | None) -> None:
    """Let the graph and its optimizers hold the sharded parameters of what runs, if that is sharded."""
    if isinstance(runner, FSDPModule):
        whole = dict(graph_module.named_parameters())
        _exchange(graph_module, {id(whole[name]): p for name, p in runner.named_parameters()}, optimizers)


def gather(graph_module: fx.GraphModule, optimizers: Optimizers | None) -> bool:
    """Let the graph and its optimizers hold whole parameters; return whether they were sharded."""
    sharded = [parameter for parameter in graph_module.parameters() if isinstance(parameter, DTensor)]
    whole = {id(p): nn.Parameter(_whole(p), requires_grad=p.requires_grad) for p in sharded}
    _exchange(graph_module, whole, optimizers)
    return bool(sharded)


def _whole(parameter: nn.Parameter) -> Tensor:
    whole: Tensor = cast(DTensor, parameter.detach()).full_tensor()
    return whole


def distributed_like(value: Any, own: Tensor | None) -> Any:
    """Return a whole tensor in the way in which `own` is distributed, without communication."""
    if not isinstance(own, DTensor) or isinstance(value, DTensor) or not isinstance(value, Tensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def _exchange(graph_module: fx.GraphModule, exchange: Exchange, optimizers: Optimizers | None) -> None:
    """Put parameters in the places of others that hold the same values, in a graph and in its optimizers."""
    if not exchange:
        return
    for module in graph_module.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = exchange.get(id(parameter), parameter)
    for optimizer in listed(optimizers):
        for group in optimizer.param_groups:
            group["params"][:] = [exchange.get(id(parameter), parameter) for parameter in group["params"]]
        moved = {exchange.get(id(held), held): state for held, state in optimizer.state.items()}
        optimizer.state.clear()
        optimizer.state.update(moved)
