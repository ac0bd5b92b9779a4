"""`Growing`: a traced model that stays one object for whoever holds it, while its inside grows."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch.fx as fx
from torch import Tensor, nn

from fxgrow.graph.flattening import build_graph, flatten_graph
from fxgrow.graph.identity import become, same_on_failure
from fxgrow.optimizers import Optimizers, unchanged_on_failure
from fxgrow.primitives.unwrapping import CompiledForm
from fxgrow.training.compilation import CompiledBlocks
from fxgrow.training.compilation import compile as compile_blocks
from fxgrow.training.replaying import follow
from fxgrow.training.structure import Structure

#: Makes of the model what is trained: DistributedDataParallel, `fully_shard`, ``.to(memory_format=...)``.
Wrap = Callable[[nn.Module], nn.Module]

#: What belongs to one object, and is made anew for its copies.
_OWN = {
    "graph_module", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set",
    "forward", "runner", "_compiled",
}  # fmt: skip
#: What a copy does not have: it is an average or a snapshot, which nobody trains.
_TRAINED = {"wrap": None, "optimizers": None, "averages": ()}


class Growing(CompiledForm):
    """A traced model that stays one object while its inside grows.

    Its parameters, buffers and submodules are those of `graph_module`, which stays one object too, under their names.
    Optimizers, averages of the weights, trainers and checkpoint writers hold *it*. Its state dict has one entry more
    than the graph's, ``_extra_state``: the edit log and the history. ``load_state_dict`` makes the structure first,
    forward or back, with the optimizers and averages that follow, and loads the weights then.

    A copy (``copy.deepcopy``, pickle) is a model of its own, compiled in the same way, and not wrapped.

    Args:
        graph_module: The traced model. It grows in place.
        wrap: Applied to the graph, or its compiled form, now and after each growth: what `forward` calls.
        compile_options: Options of ``torch.compile``; None to run the graph as it is.
        optimizers: The optimizer, or several, that go on where a state dict makes the model another one.
        averages: Modules that hold copies of this model, with averages of its weights: they grow with it.
    """

    _compiled: CompiledBlocks | fx.GraphModule
    runner: nn.Module  #: what `forward` calls: the graph, its compiled form, or what `wrap` made of that

    def __init__(
        self,
        graph_module: fx.GraphModule,
        *,
        wrap: Wrap | None = None,
        compile_options: Mapping[str, Any] | None = None,
        optimizers: Optimizers | None = None,
        averages: Iterable[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.wrap, self.optimizers, self.averages = wrap, optimizers, tuple(averages)
        self.compile_options = None if compile_options is None else dict(compile_options)
        self._stand_for(graph_module)

    def train_with(
        self, optimizers: Optimizers, *, averages: Iterable[nn.Module] = (), wrap: Wrap | None = None
    ) -> None:
        """Say what goes on with the model when it becomes another one: see the arguments of the class."""
        self.optimizers, self.averages = optimizers, tuple(averages)
        if wrap is not None:
            self.wrap = wrap
            self._run()

    def become(self, rewritten: fx.GraphModule) -> None:
        """Take over the inside of a rewritten copy of `graph_module`, which is used up; averages follow.

        Nothing has changed where anything fails: an average that cannot follow, the compiler, `wrap`.
        """
        shadows = [shadow for average in self.averages for shadow in growing_parts(average)]
        graphs = [shadow.graph_module if isinstance(shadow, Growing) else shadow for shadow in shadows]
        with same_on_failure(self.graph_module, *graphs):
            become(self.graph_module, rewritten)
            for shadow, graph in zip(shadows, graphs, strict=True):
                followed = follow(graph, self.graph_module)
                shadow.become(followed) if isinstance(shadow, Growing) else become(shadow, followed)
            self._run()

    def train(self, mode: bool = True) -> "Growing":
        """Put the model in training mode, or in evaluation mode."""
        self.runner.train(mode)
        self.graph_module.train(mode)
        self.training = mode
        return self

    def get_extra_state(self) -> Tensor:
        """Return the structure (`fxgrow.training.structure`)."""
        return Structure.of(self.graph_module).to_tensor()

    def set_extra_state(self, state: Tensor) -> None:
        """Make the structure what a state dict says.

        Raises:
            TraceError: If the state is not one of this base.
        """
        said = Structure.from_tensor(state)
        if said != Structure.of(self.graph_module):
            with unchanged_on_failure(self.optimizers):
                self.become(said.made_of(self.graph_module, self.optimizers))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Make the structure before the first tensor is loaded; a state dict that says none is loaded as ever."""
        key, missing = f"{prefix}_extra_state", rest[2]
        if key in state_dict:
            self.set_extra_state(state_dict[key])
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if key in missing:
            missing.remove(key)

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name not in _OWN}
        return {**kept, **_TRAINED, "graph": flatten_graph(self.graph_module)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        graph_module = build_graph(state.pop("graph"))
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._stand_for(graph_module)

    def _stand_for(self, graph_module: fx.GraphModule) -> None:
        self.stand_for(graph_module)
        options = self.compile_options
        self.__dict__["_compiled"] = graph_module if options is None else compile_blocks(graph_module, **options)
        self._run()

    def _run(self) -> None:
        """Run the graph that is inside now: compile what changed, wrap it, and say which inputs it takes."""
        if isinstance(self._compiled, CompiledBlocks):
            self._compiled.follow()
        self.__dict__["runner"] = self._compiled if self.wrap is None else self.wrap(self._compiled)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self.runner(*args, **kwargs)

        forward.__signature__ = inspect.signature(self.graph_module.forward)  # type: ignore[attr-defined]
        self.__dict__["forward"] = forward  # trainers ask it which columns of their data it takes


def growing_parts(module: nn.Module) -> list["Growing | fx.GraphModule"]:
    """Return the outermost modules in `module` that can become others in place, such as the copy in an average.

    Example:
        >>> from torch.optim.swa_utils import AveragedModel
        >>> traced = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
        >>> [type(part).__name__ for part in growing_parts(AveragedModel(Growing(traced)))]
        ['Growing']
    """
    if isinstance(module, Growing | fx.GraphModule):
        return [module]
    if isinstance(module, CompiledForm):
        return [module.graph_module]
    return [part for child in module.children() for part in growing_parts(child)]
