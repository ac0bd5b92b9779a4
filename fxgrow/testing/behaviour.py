"""The records of operations, held against what happens when they run: to memory, to state, to the random stream."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.errors import VerificationError
from fxgrow.execution.preservation import preserved
from fxgrow.execution.randomness import random_state
from fxgrow.execution.structures import flatten
from fxgrow.graph.operation import Operation
from fxgrow.graph.operations import operations_of
from fxgrow.record.location import module_path

Record = Callable[[fx.Node], Operation]


def check_operations(graph_module: fx.GraphModule, inputs: Iterable[Any], record: Record | None = None) -> int:
    """Run a graph in both modes and hold each call against its record: whatever happens must be in it.

    Args:
        graph_module: A traced model; it is as it was afterwards.
        inputs: Its inputs, in the order of its placeholders.
        record: Returns the record of a node; those of `fxgrow.graph.operations` if left out.

    Returns:
        How many calls were compared.

    Raises:
        VerificationError: Where a call does something that its record does not say.
    """
    inputs, checked = tuple(inputs), 0
    for training in (False, True):
        with preserved(graph_module, seed=0), torch.no_grad():
            graph_module.train(training)
            comparison = _Comparison(graph_module, record or operations_of(graph_module).__getitem__)
            comparison.run(*inputs)
            checked += comparison.checked
    return checked


class _Comparison(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule, record: Record) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.extra_traceback = False
        self.record, self.checked = record, 0

    def run_node(self, n: fx.Node) -> Any:
        if not n.op.startswith("call"):
            return super().run_node(n)
        inputs = {str(place): self.env[value] for place, value in enumerate(n.all_input_nodes)}
        values = {place: [tensor for _, tensor in flatten(value)] for place, value in inputs.items()}
        state = {name: [tensor] for name, tensor in self._state(n).items()}
        before, drawn = [_copies(values), _copies(state)], random_state()
        result = super().run_node(n)
        shown = {tensor.untyped_storage().data_ptr() for _, tensor in flatten(result)}
        found = self.record(n)
        _demand(n, "overwrites input", _changed(values, before[0]) - set(map(str, found.writes)))
        _demand(n, "shows the memory of input", _shown(values, shown) - set(map(str, found.shares)))
        _demand(n, "changes its", _changed(state, before[1]) - found.moves)
        _demand(n, "shows the memory of its", set() if found.shows_state else _shown(state, shown))
        _demand(
            n,
            "draws random numbers from",
            {"the global stream"} if random_state() != drawn and not found.draws else set(),
        )
        self.checked += 1
        return result

    def _state(self, node: fx.Node) -> dict[str, Tensor]:
        module = self.module.get_submodule(str(node.target)) if node.op == "call_module" else nn.Module()
        return {**dict(module.named_parameters()), **dict(module.named_buffers())}


Held = Mapping[str, list[Tensor]]


def _copies(held: Held) -> Held:
    return {name: [tensor.clone() for tensor in tensors] for name, tensors in held.items()}


def _changed(held: Held, before: Held) -> set[str]:
    pairs = {name: zip(tensors, before[name], strict=True) for name, tensors in held.items()}
    return {name for name, both in pairs.items() if not all(_same(now, old) for now, old in both)}


def _same(now: Tensor, old: Tensor) -> bool:
    """Compare numbers, of which nan is the same as itself."""
    return now.shape == old.shape and bool(torch.equal(now.nan_to_num(), old.nan_to_num()))


def _shown(held: Held, memory: set[int]) -> set[str]:
    return {name for name, tensors in held.items() if any(t.untyped_storage().data_ptr() in memory for t in tensors)}


def _demand(node: fx.Node, deed: str, things: set[str]) -> None:
    if things:
        what = f"{node.format_node()} {deed} {', '.join(sorted(things))}, of which its record says nothing"
        raise VerificationError(what, where=module_path(node) or "the model", fix="mend the record of this operation")
