"""Inputs of a graph: described by the metadata of its placeholders, and built at random from it."""

from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.fx.passes.shape_prop import TensorMetadata

from fxgrow.errors import TraceError
from fxgrow.execution.structures import mapped
from fxgrow.record.annotations import annotation


def example_inputs_of(graph_module: fx.GraphModule, seed: int = 0, batch_size: int | None = None) -> tuple[Any, ...]:
    """Build random inputs of the shapes that the placeholders carry, in their order.

    Floating-point inputs are standard normal, boolean ones fair coins, integers uniform in the range that was seen when
    the model was traced, or else that an embedding which reads them allows. The global random state is untouched.

    Args:
        graph_module: A graph with shapes on its placeholders.
        seed: Seed of the generator.
        batch_size: Size of the leading dimension, in place of the traced one, in every input that shares it.

    Raises:
        TraceError: If a placeholder has no shape.
    """
    generator = torch.Generator().manual_seed(seed)
    device = device_of(graph_module)
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    traced_batch = next((meta.shape[0] for node in placeholders for meta in _leading(node)), None)

    def build(node: fx.Node, meta: Any) -> Any:
        if not isinstance(meta, TensorMetadata):
            return meta
        shape = list(meta.shape)
        known = annotation(node).get("values")
        if known is not None and batch_size is None:
            return torch.tensor(known, dtype=meta.dtype, device=device)
        if batch_size is not None and shape and shape[0] == traced_batch:
            shape[0] = batch_size
        return _random_tensor(shape, meta.dtype, _integer_range(graph_module, node), generator).to(device)

    return tuple(mapped(input_metadata(node), partial(build, node)) for node in placeholders)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer of `module`; the CPU where it has none."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def input_metadata(node: fx.Node) -> Any:
    """Return the metadata of a placeholder: its own, or the default value that the graph gives it.

    Raises:
        TraceError: If it has neither.
    """
    if "tensor_meta" in node.meta:
        return node.meta["tensor_meta"]
    if node.args:
        return node.args[0]
    raise TraceError("the shape of this input is not known", where=str(node.target), fix="give example inputs")


def _leading(node: fx.Node) -> list[TensorMetadata]:
    """Return the metadata of the tensors of an input that have a leading dimension."""
    found: list[TensorMetadata] = []
    mapped(input_metadata(node), lambda meta: found.append(meta) if isinstance(meta, TensorMetadata) else None)
    return [meta for meta in found if len(meta.shape)]


def _integer_range(graph_module: fx.GraphModule, node: fx.Node) -> tuple[int, int]:
    seen = annotation(node).get("integers")
    if seen:
        return seen[0], seen[1]
    modules = [graph_module.get_submodule(str(user.target)) for user in node.users if user.op == "call_module"]
    sizes = [module.num_embeddings for module in modules if isinstance(module, nn.Embedding)]
    return 0, min(sizes, default=2) - 1


def _random_tensor(shape: list[int], dtype: torch.dtype, bounds: tuple[int, int], generator: torch.Generator) -> Tensor:
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, dtype=torch.promote_types(dtype, torch.float32), generator=generator).to(dtype)
    return torch.randint(bounds[0], bounds[1] + 1, shape, dtype=dtype, generator=generator)
