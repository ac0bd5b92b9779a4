"""`compile`: torch.compile block by block, for models that grow.

Compiling a whole model again after each growth event costs more than the training in between, and growing a module in
place runs into torch's recompile limit and then, silently, into eager execution. Here every distinct structure of a
block is one compiled function: equal blocks share it, and a growth event compiles only the blocks that it changed.
"""

import copy
import inspect
import warnings
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.fx as fx
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

from fxgrow.errors import FxgrowWarning
from fxgrow.primitives.modules import fetch_attribute
from fxgrow.primitives.unwrapping import CompiledForm, unwrap
from fxgrow.record.digest import digest
from fxgrow.training.blocks import Piece, cut, leaves_of


class CompileWarning(FxgrowWarning):
    """torch.compile does not work on this machine, and the model runs eager."""


class CompiledBlocks(CompiledForm):
    """A GraphModule that runs as compiled pieces. Parameters, buffers and submodules are those of `graph_module`.

    ``state_dict``, ``parameters``, ``train``, ``eval`` and ``to`` act on the shared modules, under the names that they
    have in `graph_module`, which stays the thing to grow and to save. Where that becomes another graph in place
    (`fxgrow.graph.identity.become`), this follows: it compiles the blocks that changed.
    """

    def __init__(self, graph_module: fx.GraphModule, options: dict[str, Any]) -> None:
        super().__init__()
        self.stand_for(graph_module)
        self._options = options
        self._steps: tuple[_CompiledPiece, ...] = ()
        self._graph: fx.Graph | None = None  # the graph that was cut
        self.follow()

    def follow(self) -> None:
        """Cut the graph into pieces, if it is not the one that was cut; blocks that did not change are taken over."""
        graph_module = self.graph_module
        if graph_module.graph is self._graph:
            return
        steps = tuple(_CompiledPiece(graph_module, piece, self._options) for piece in cut(graph_module))
        self._last_uses = _last_uses(graph_module, steps)
        self._signature = inspect.signature(graph_module.forward)
        self._steps, self._graph = steps, graph_module.graph

    @property
    def pieces(self) -> tuple[str, ...]:
        """The path of each piece's block, in the order of execution; empty for what lies outside the blocks."""
        return tuple(step.piece.label for step in self._steps)

    def train(self, mode: bool = True) -> "CompiledBlocks":
        """Put the model in training mode, or in evaluation mode."""
        self.graph_module.train(mode)
        return super().train(mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what `graph_module` computes; a value is dropped after its last use, as in eager code."""
        self.follow()
        values = self._arguments(*args, **kwargs)
        for step, used_up in zip(self._steps, self._last_uses, strict=True):
            outputs = step(*(values[node] for node in step.piece.inputs))
            values.update(zip(step.piece.outputs, outputs, strict=True))
            for node in used_up:
                del values[node]
        return fx.map_arg(self.graph_module.graph.output_node().args[0], values.__getitem__)

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledBlocks":
        """Return the compiled form of a copy of `graph_module`; the code is shared."""
        return CompiledBlocks(copy.deepcopy(self.graph_module, memo), self._options)

    def _arguments(self, *args: Any, **kwargs: Any) -> dict[fx.Node, Any]:
        """Bind the arguments to the placeholders, and read the attributes that the graph uses."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values: dict[fx.Node, Any] = {}
        for node in self.graph_module.graph.nodes:
            if node.op == "placeholder":
                values[node] = bound.arguments[str(node.target).lstrip("*")]
            elif node.op == "get_attr":
                values[node] = fetch_attribute(self.graph_module, str(node.target))
        return values


def compile(graph_module: nn.Module, **torch_compile_options: Any) -> CompiledBlocks:
    """Compile a GraphModule block by block; call it in place of ``torch.compile``, and again after each growth event.

    The first call of the result compiles each distinct block once. Blocks that an earlier result, still alive, has
    compiled are taken over as they are. Where torch's backend fails (no C++ compiler, say), a `CompileWarning` says so
    once and the model runs eager. Blocks that differ in a constant (a drop path rate, say) are compiled apart.

    Args:
        graph_module: A traced or grown model. It is not changed.
        torch_compile_options: Options of ``torch.compile`` (``backend``, ``mode``, ``fullgraph``, ``dynamic``, …),
            applied to every piece.

    Returns:
        A module that computes the same function and shares parameters, buffers and submodules with `graph_module`.

    Raises:
        TraceError: If `graph_module` is not traced.

    Example:
        >>> traced = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)))
        >>> model = compile(traced, fullgraph=True)
        >>> list(model.state_dict()) == list(traced.state_dict())
        True
    """
    return CompiledBlocks(unwrap(graph_module), torch_compile_options)


class _Structure:
    """The code of all pieces that are equal but for the values of their weights, and its compiled form."""

    def __init__(self, forward: Callable[..., tuple[Any, ...]], options: dict[str, Any], key: Hashable) -> None:
        self.forward, self.key, self.options = forward, key, _spell(options)
        self.compiled: Callable[..., tuple[Any, ...]] = torch.compile(forward, **options)

    def __call__(self, leaves: nn.Module, *inputs: Any) -> tuple[Any, ...]:
        if self.options in _failed:
            return self.forward(leaves, *inputs)
        try:
            return self.compiled(leaves, *inputs)
        except BackendCompilerFailed as error:  # nothing was executed yet, so the eager call runs the piece once
            _failed.add(self.options)
            reason = str(error.inner_exception).strip().partition("\n")[0]
            warnings.warn(f"torch.compile does not work here, running eager: {reason}", CompileWarning, stacklevel=2)
        return self.forward(leaves, *inputs)


#: Structures that some compiled model still uses; the next growth event takes over those that it left alone.
_structures: WeakValueDictionary[Hashable, _Structure] = WeakValueDictionary()
#: Options with which the backend failed in this process, so that it is tried and told only once.
_failed: set[str] = set()


class _CompiledPiece:
    """One piece with its code and its modules."""

    def __init__(self, graph_module: fx.GraphModule, piece: Piece, options: dict[str, Any]) -> None:
        self.piece = piece
        self.leaves = leaves_of(graph_module, piece)
        self.structure = _structure(graph_module, piece, self.leaves, options)

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        return self.structure(self.leaves, *inputs)


def _structure(graph_module: fx.GraphModule, piece: Piece, leaves: nn.Module, options: dict[str, Any]) -> _Structure:
    code = fx.GraphModule(leaves, piece.graph, class_name=f"Piece_{piece.label.replace('.', '_')}")
    functions = tuple(id(node.target) for node in piece.graph.nodes if node.op == "call_function")
    shapes = tuple(_describe(graph_module, node) for node in piece.inputs)
    key = (digest(code), functions, shapes, _spell(options))
    found = _structures.get(key)
    if found is None:
        found = _structures[key] = _Structure(type(code).forward, options, key)
    return found


def _describe(graph_module: fx.GraphModule, node: fx.Node) -> Hashable:
    """Describe an input of a piece by shape and dtype, where they are known before the model runs."""
    value: Any = node.meta.get("tensor_meta")
    if node.op == "get_attr":
        value = fetch_attribute(graph_module, str(node.target))
    dtype = getattr(value, "dtype", None)
    return (tuple(value.shape), str(dtype), isinstance(value, nn.Parameter)) if dtype is not None else None


def _spell(options: dict[str, Any]) -> str:
    """Spell options of torch.compile in one order, as a key."""
    return repr(sorted(options.items()))


def _last_uses(graph_module: fx.GraphModule, steps: tuple[_CompiledPiece, ...]) -> list[tuple[fx.Node, ...]]:
    """List for each step the values that nothing after it reads."""
    last = {node: index for index, step in enumerate(steps) for node in step.piece.inputs}
    kept = set(graph_module.graph.output_node().all_input_nodes)
    return [
        tuple(node for node, index in last.items() if index == position and node not in kept)
        for position in range(len(steps))
    ]
