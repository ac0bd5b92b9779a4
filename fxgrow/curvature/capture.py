"""Capture through the graph: values at chosen nodes, and the loss's gradients there, without hooks."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.curvature.batches import Batch, tensors_in
from fxgrow.errors import AnalysisError, FxgrowError, TraceError, first_line, ran_out_of_memory
from fxgrow.execution.calling import Inputs, bind_placeholders
from fxgrow.execution.place import Place
from fxgrow.execution.preservation import preserved

#: maps the model's output and the target to the loss over a batch; None where the model's output holds the loss
LossFunction = Callable[[Any, Any], Tensor] | None


class ForwardPass:
    """One forward pass of one batch, with the values at the wanted nodes and a loss to differentiate."""

    def __init__(self, values: dict[fx.Node, Any], output: Any, loss: Tensor) -> None:
        self.values, self.output, self.loss = values, output, loss

    def gradients(
        self, nodes: Sequence[fx.Node], *, cotangent: Tensor | None = None, retain_graph: bool = False
    ) -> dict[fx.Node, Tensor]:
        """Return dL/d(value) at `nodes`, in the value's own shape; zeros where the loss does not depend on it.

        Args:
            nodes: Nodes that were recorded as differentiable.
            cotangent: If given, it takes the place of the loss's gradient at the model's output, which is one tensor.
            retain_graph: Whether there will be another call.
        """
        targets = [self.values[node] for node in nodes]
        end = self.loss if cotangent is None else self.output
        with _explained():
            found = torch.autograd.grad(end, targets, cotangent, retain_graph=retain_graph, allow_unused=True)
        return {
            node: torch.zeros_like(value) if gradient is None else gradient
            for node, value, gradient in zip(nodes, targets, found, strict=True)
        }

    def release(self) -> None:
        """Let go of every tensor, and of the graph behind them."""
        self.values.clear()
        del self.output, self.loss


@contextmanager
def _explained() -> Iterator[None]:
    """Turn torch's message about reentrant checkpoints into a short one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        what = "a reentrant checkpoint lets nobody differentiate by what is inside the model"
        fix = "call torch.utils.checkpoint with use_reentrant=False"
        raise AnalysisError(what, where="the model", fix=fix) from error


@contextmanager
def _own_errors(what: str, batch: Batch) -> Iterator[None]:
    """Say of an error in the user's code on which batch it came; running out of memory stays what it is."""
    try:
        yield
    except FxgrowError:
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        fix = "give batches (inputs, target) as in training, for which it runs"
        raise AnalysisError(
            f"{what} fails on it: {first_line(error)}", where=f"batch {batch.index}", fix=fix
        ) from error


@contextmanager
def forward_pass(
    graph_module: fx.GraphModule,
    loss_fn: LossFunction,
    batch: Batch,
    *,
    values: Iterable[fx.Node] = (),
    differentiable: Iterable[fx.Node] = (),
    seed: int,
    place: Place | None = None,
) -> Iterator[ForwardPass]:
    """Run one batch and yield what came out; on leaving, the model is as it was.

    The model runs in the mode it is in, under the caller's autocast. A wanted value that a later operation works on in
    place is noticed by its version counter; then the batch is run once more and a copy of the value is kept, so that
    what was recorded is the value itself, and its gradient its own.

    Args:
        graph_module: The model.
        loss_fn: Maps output and target to the loss over the batch; None takes it from the output.
        batch: The inputs and the target.
        values: Nodes whose values are recorded.
        differentiable: Nodes whose values are recorded and can be differentiated by, also if all weights are frozen.
        seed: Seeds dropout and its kin, so that a second pass over this batch sees the same masks.
        place: Where the graph lies in a larger model, which is run; None where it is the model.

    Raises:
        AnalysisError: If the loss is not a finite scalar that depends on the model, or if what is overwritten changes
            from run to run.
    """
    copied: frozenset[fx.Node] = frozenset()
    differentiable = frozenset(differentiable)
    wanted = differentiable | frozenset(values)
    for _ in range(2):  # a copy that nobody else holds is overwritten by nobody
        with preserved(whole_model(graph_module, place), seed=seed), torch.inference_mode(False), torch.enable_grad():
            recorder = Recorder(graph_module, wanted, differentiable, copied)
            with _own_errors("the model", batch):
                output = run_recorded(recorder, batch, place)
            mutated = recorder.mutated()
            if not mutated:
                run = ForwardPass(recorder.values, output, loss_of(loss_fn, output, batch))
                del recorder, output
                try:
                    yield run
                finally:
                    run.release()
                return
        copied = mutated
    what = "other values are overwritten in place each time that it runs"
    raise AnalysisError(what, where="the model", fix="trace it with fxgrow.trace, which makes them out of place")


class Recorder(fx.Interpreter):
    """Runs a graph and keeps the values of the wanted nodes.

    Args:
        graph_module: The model.
        wanted: Nodes whose values are kept.
        differentiable: Those of them whose values must be part of autograd's graph, frozen weights or not.
        copied: Those of them of which a copy is kept, since a later operation overwrites them.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        wanted: frozenset[fx.Node],
        differentiable: frozenset[fx.Node],
        copied: frozenset[fx.Node],
    ) -> None:
        super().__init__(graph_module)
        self.extra_traceback = False
        self.graph_module = graph_module
        self.wanted, self.differentiable, self.copied = wanted, differentiable, copied
        self.values: dict[fx.Node, Any] = {}
        self.versions: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Evaluate one node."""
        value = super().run_node(n)
        if n not in self.wanted:
            return value
        if not isinstance(value, Tensor):  # a size, or an input that was left out
            self.values[n] = value
            return value
        kept = value.clone() if n in self.copied else value
        frozen = n in self.differentiable and not kept.requires_grad
        if frozen:
            kept = kept.detach().requires_grad_()
        self.values[n], self.versions[n] = kept, kept._version
        if n not in self.differentiable:
            return value  # which may be a view: what is written into it must reach the rest
        # autograd lets nobody work in place on a leaf, so what was made one is handed on as a copy
        return kept.clone() if frozen or n in self.copied else value

    def mutated(self) -> frozenset[fx.Node]:
        """Return the nodes whose kept values were changed in place since."""
        return frozenset(node for node, version in self.versions.items() if self.values[node]._version != version)


def whole_model(graph_module: fx.GraphModule, place: Place | None) -> nn.Module:
    """Return the model that is run: the one that the graph is a part of, or the graph."""
    return graph_module if place is None else place.model


def run_recorded(recorder: Recorder, batch: Batch, place: Place | None) -> Any:
    """Run a batch through the graph of `recorder`, or through the model in whose `place` it computes.

    Raises:
        AnalysisError: If the inputs do not fit, or the model does not call the part exactly once.
    """
    if place is None:
        return recorder.run(*arguments(recorder.graph_module, batch))
    calls = 0

    def compute(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return recorder.run(*arguments(recorder.graph_module, replace(batch, inputs=Inputs(args, kwargs))))

    with place.computing(compute):
        output = Inputs.of(place.model, batch.inputs).call(place.model)
    if calls != 1:
        fix = "name a larger part, in which all of its calls lie" if calls else "name a part that is called"
        raise AnalysisError(f"the model calls it {calls} times for one batch", where=place.path, fix=fix)
    return output


def arguments(graph_module: fx.GraphModule, batch: Batch) -> list[Any]:
    """Return the inputs of a batch in the order of the placeholders.

    Raises:
        AnalysisError: If they do not fit the placeholders.
    """
    try:
        bound = bind_placeholders(graph_module, batch.inputs)
    except TraceError as error:
        raise AnalysisError(error.what, where=f"batch {batch.index}: {error.where}", fix=error.fix) from error
    return [bound[node] for node in graph_module.graph.find_nodes(op="placeholder")]


def loss_of(loss_fn: LossFunction, output: Any, batch: Batch) -> Tensor:
    """Return the loss over one whole batch, as the user's function or the model itself computes it.

    Raises:
        AnalysisError: If there is none, or it is not a finite scalar that depends on the model.
    """
    where = f"the loss of batch {batch.index}"
    if loss_fn is None:
        loss: Any = _loss_inside(output, where)
    else:
        with _own_errors("the loss function", batch):
            loss = loss_fn(output, batch.target)
    if not isinstance(loss, Tensor):
        raise AnalysisError(f"it is a {type(loss).__name__}, not a tensor", where=where, fix="return the mean loss")
    if loss.numel() != 1:
        what = f"it has shape {tuple(loss.shape)}, but must be a scalar"
        raise AnalysisError(what, where=where, fix="return the mean over the batch, as with reduction='mean'")
    if not math.isfinite(loss.detach().item()):
        fix = "look at that batch's inputs and targets, or score an earlier state of the model"
        raise AnalysisError(f"it is {loss.detach().item()}", where=where, fix=fix)
    if torch.is_grad_enabled() and not loss.requires_grad:
        fix = "compute it from the output by differentiable operations"
        raise AnalysisError("it does not depend on the model's output", where=where, fix=fix)
    return loss


def _loss_inside(output: Any, where: str) -> Tensor:
    """Return the loss in a model's output: what is called so, or the only floating-point scalar in it."""
    named = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    found = [named] if isinstance(named, Tensor) else [t for t in tensors_in(output) if t.numel() == 1 and t.ndim < 2]
    found = [scalar for scalar in found if scalar.is_floating_point()]
    if len(found) != 1:
        what = f"there are {len(found)} scalars in the model's output that may be it" if found else "the model has none"
        fix = "give batches with the labels from which the model computes it, or a loss_fn(output, target)"
        raise AnalysisError(what, where=where, fix=fix)
    return found[0]
