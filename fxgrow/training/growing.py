"""`Growing`: a traced model that stays one object for whoever holds it, while its inside grows."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.fx as fx
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fxgrow.errors import PlanError
from fxgrow.graph.flattening import build_graph, flatten_graph
from fxgrow.graph.identity import become, same_on_failure
from fxgrow.optimizers import Optimizers, unchanged_on_failure
from fxgrow.primitives.unwrapping import CompiledForm
from fxgrow.record.digest import digest
from fxgrow.record.record import update_record
from fxgrow.training.compilation import CompiledBlocks
from fxgrow.training.compilation import compile as compile_blocks
from fxgrow.training.parallel import Wrappers
from fxgrow.training.replaying import follow
from fxgrow.training.sharding import Shard, adopt_shards, distributed_like, gather
from fxgrow.training.structure import Structure

#: Makes of the model what is trained: DistributedDataParallel, `fully_shard`, ``.to(memory_format=...)``.
Wrap = Callable[[nn.Module], nn.Module]

#: What belongs to one object, and is made anew for its copies.
_OWN = {
    "graph_module", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set",
    "forward", "runner", "_compiled", "_wrappers",
}  # fmt: skip
#: What a copy does not have: it is an average or a snapshot, which nobody trains.
_TRAINED = {"wrap": None, "optimizers": None, "averages": (), "_shadows": ()}


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
    """

    _compiled: CompiledBlocks | fx.GraphModule
    _wrappers: Wrappers
    runner: nn.Module  #: what `forward` calls: the graph, its compiled form, or what `wrap` made of that

    def __init__(
        self,
        graph_module: fx.GraphModule,
        *,
        wrap: Wrap | None = None,
        compile_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.wrap = wrap
        self.optimizers: Optimizers | None = None  #: go on where a state dict makes the model another one
        self.averages: tuple[nn.Module, ...] = ()  #: hold copies of the model, which grow with it
        self._shadows: tuple[Growing | fx.GraphModule, ...] = ()  # the copies in the averages
        self.compile_options = None if compile_options is None else dict(compile_options)
        self._stand_for(graph_module)

    def add_averages(self, *averages: nn.Module) -> None:
        """Let averages of the weights grow with the model.

        The copy in each becomes a `Growing`, so that the average's own state dict says its structure too.

        Raises:
            PlanError: If one does not hold one copy of this model.
        """
        if averages and isinstance(self.wrap, Shard):
            fix = "leave ema out; an average of sharded weights cannot follow"
            raise PlanError("it averages whole weights, and Shard holds none", where="ema", fix=fix)
        shadows = tuple(_copy_in(average, digest(self.graph_module)) for average in averages)
        self.averages, self._shadows = (*self.averages, *averages), (*self._shadows, *shadows)

    def train_with(
        self, optimizers: Optimizers, *, averages: Iterable[nn.Module] = (), wrap: Wrap | None = None
    ) -> None:
        """Say what goes on with the model when it becomes another one.

        Args:
            optimizers: The optimizer of its parameters, or several.
            averages: As for `add_averages`.
            wrap: As for the class; what it was where this is left out.

        Raises:
            PlanError: If an average does not hold one copy of this model.
        """
        self.optimizers, self.wrap = optimizers, wrap or self.wrap
        self.add_averages(*averages)
        if wrap is not None:
            self._run()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Let the graph hold whole parameters meanwhile, where `wrap` shards them: for what measures or rewrites it."""
        sharded = gather(self.graph_module, self.optimizers)
        try:
            yield
        finally:
            if sharded and not any(isinstance(parameter, DTensor) for parameter in self.graph_module.parameters()):
                self._run()

    def become(self, rewritten: fx.GraphModule) -> None:
        """Take over the inside of a rewritten copy of `graph_module`, which is used up; averages follow.

        Nothing has changed where anything fails: an average that cannot follow, the compiler, `wrap`.
        """
        graphs, runner = [_graph_of(shadow) for shadow in self._shadows], self.runner
        with same_on_failure(self.graph_module, *graphs), ExitStack() as undo:
            undo.callback(self.__dict__.update, runner=runner)
            become(self.graph_module, rewritten)
            for shadow, graph in zip(self._shadows, graphs, strict=True):
                followed = follow(graph, self.graph_module)
                shadow.become(followed) if isinstance(shadow, Growing) else become(shadow, followed)
            self._run()
            self._wrappers.renew()
            undo.pop_all()

    def train(self, mode: bool = True) -> "Growing":
        """Put the model in training mode, or in evaluation mode."""
        self.runner.train(mode)
        self.graph_module.train(mode)
        self.training = mode
        return self

    def get_extra_state(self) -> Tensor:
        """Return the structure (`fxgrow.training.structure`)."""
        return Structure.of(self.graph_module).to_tensor()

    def state_dict(self, *args: Any, prefix: str = "", **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the state, the structure last: timm pairs the tensors of two models by their order."""
        state: dict[str, Any] = super().state_dict(*args, prefix=prefix, **options)
        state[f"{prefix}_extra_state"] = state.pop(f"{prefix}_extra_state")
        return state

    def set_extra_state(self, state: Tensor) -> None:
        """Make the structure what a state dict says.

        Raises:
            TraceError: If the state is not one of this base.
        """
        said, here = Structure.from_tensor(state), Structure.of(self.graph_module)
        if (said.digest, said.edits) == (here.digest, here.edits):
            update_record(self.graph_module, history=said.history)
            return
        with self.whole(), unchanged_on_failure(self.optimizers):
            self.become(said.made_of(self.graph_module, self.optimizers))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Make the structure before the first tensor is loaded; a state dict that says none is loaded as ever."""
        key, missing = f"{prefix}_extra_state", rest[2]
        if key in state_dict:
            self.set_extra_state(state_dict[key])
        for name, own in self.named_parameters(prefix.removesuffix(".")):  # a state may be whole where they are sharded
            if name in state_dict:
                state_dict[name] = distributed_like(state_dict[name], own)
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
        self.__dict__["_wrappers"] = Wrappers()  # those that somebody puts around it, unlike `wrap`
        options = self.compile_options
        self.__dict__["_compiled"] = graph_module if options is None else compile_blocks(graph_module, **options)
        self._run()

    def _run(self) -> None:
        """Run the graph that is inside now: compile what changed, wrap it, and say which inputs it takes."""
        if isinstance(self._compiled, CompiledBlocks):
            self._compiled.follow()
        self.__dict__["runner"] = self._compiled if self.wrap is None else self.wrap(self._compiled)
        adopt_shards(self.graph_module, self.runner, self.optimizers)

        def forward(*args: Any, **kwargs: Any) -> Any:
            self._wrappers.note(self)
            return self.runner(*args, **kwargs)

        forward.__signature__ = inspect.signature(self.graph_module.forward)  # type: ignore[attr-defined]
        self.__dict__["forward"] = forward  # trainers ask it which columns of their data it takes


def _copy_in(average: nn.Module, wanted: str) -> Growing | fx.GraphModule:
    """Return the one copy of a graph in an average, found by its digest, as `Growing` where it has an owner."""
    if not isinstance(average, nn.Module):
        fix = "give a module that holds a copy of the model, as torch's AveragedModel or timm's ModelEmaV3"
        raise PlanError(f"it is no nn.Module, but a {type(average).__name__}", where="ema", fix=fix)
    found = [(owner, name, part) for owner, name, part in _parts_of(average) if digest(_graph_of(part)) == wanted]
    if len(found) != 1:
        what = f"it holds {len(found)} copies of the model, and not one"
        fix = "make it of the traced model, or of grower.model"
        raise PlanError(what, where=f"ema: {type(average).__name__}", fix=fix)
    owner, name, part = found[0]
    if owner is not None and isinstance(part, fx.GraphModule):
        part = Growing(part)
        setattr(owner, name, part)
    return part


def _parts_of(
    module: nn.Module, owner: nn.Module | None = None, name: str = ""
) -> Iterator[tuple[nn.Module | None, str, Growing | fx.GraphModule]]:
    """Yield the outermost modules in `module` that can become others in place, each with what holds it."""
    if isinstance(module, Growing | fx.GraphModule):
        yield owner, name, module
    elif isinstance(module, CompiledForm):
        yield None, "", module.graph_module
    else:
        for child_name, child in module.named_children():
            yield from _parts_of(child, module, child_name)


def _graph_of(part: Growing | fx.GraphModule) -> fx.GraphModule:
    return part.graph_module if isinstance(part, Growing) else part
