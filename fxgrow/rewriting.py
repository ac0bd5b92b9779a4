"""Rewrites by name: the passes of `fxgrow.passes` as functions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.errors import PassError
from fxgrow.optimizers import Optimizers
from fxgrow.passes.add_residual_edge import AddResidualEdge
from fxgrow.passes.block_copies import parameters_within
from fxgrow.passes.deepen import Deepen, repeated_blocks
from fxgrow.passes.fit_copies import fit_copies, mean_loss, read_pairs
from fxgrow.passes.fold_pairs import FoldPairs
from fxgrow.passes.insert_block import InsertBlock
from fxgrow.passes.merge_branches import MergeBranches
from fxgrow.passes.slim import Slim
from fxgrow.passes.undo import Undo, edits_of_events
from fxgrow.passes.widen import Widen
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.primitives.unwrapping import unwrap
from fxgrow.record.record import remember


@checks_arguments(PassError)
def add_residual_edge(
    traced: nn.Module,
    *,
    source: str,
    target: str,
    optimizer: Optimizers | None = None,
    context: Mapping[str, Any] | None = None,
) -> fx.GraphModule:
    """Return a copy of `traced` in which `target` becomes ``target + gate * source``, with a gate that is zero.

    The result shares the parameters of `traced` and computes the same function; the gate is its new parameter.

    Args:
        traced: A traced model.
        source: Module path of the value that is added, or the name of an input of the model.
        target: Module path of the value that it is added to, of the same shape, and not an ancestor of the source.
        optimizer: The optimizer that trains `traced`, or several; the gate joins it.
        context: What the growth history shall remember of this event, JSON values.

    Raises:
        PassError: If an end does not exist, or the edge may not go there.
        PlanError: If the optimizer cannot take the gate.

    Example:
        >>> import torch, fxgrow
        >>> model = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(3)])
        >>> traced = fxgrow.trace(model, torch.randn(2, 4))
        >>> list(fxgrow.new_parameters(add_residual_edge(traced, source="0", target="2")))
        ['2_edge_0.gate']
    """
    return remember(AddResidualEdge(source, target)(traced, optimizer).graph_module, context)


@checks_arguments(PassError, fit="batches, each a pair (inputs, target)", blocks="module paths, as 'blocks.3'")
def deepen(
    traced: nn.Module,
    blocks: str | Sequence[str] | None = None,
    *,
    how: Literal["half", "zero"] = "half",
    fit: Iterable[Any] | None = None,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    optimizer: Optimizers | None = None,
    context: Mapping[str, Any] | None = None,
) -> fx.GraphModule:
    """Return a copy of `traced` in which residual blocks have become two steps: of half the size, or one silent.

    ``how="half"``: ``x + f(x)`` becomes ``y = x + f(x)/2, y + f(y)/2``, for each residual branch of the block. *This
    changes the function*, and pays all the same: what was learnt is refined by more depth. ``how="zero"`` keeps it.

    Args:
        traced: A traced model.
        blocks: Module paths of residual blocks (``"blocks.3"``); without them, all that have others of their kind
            beside them.
        how: ``"half"`` or ``"zero"``.
        fit: Pairs ``(inputs, target)``: the last linear maps of the copies are fitted to their inputs, by ridge
            regression, so that two half-steps compute what the block did. The history says the squared error of each
            pair before and after, in shares of what the block adds (``context["fit"]``). With half-steps only.
        loss_fn: With `fit`, maps output and target to a mean loss; the history says its mean over the pairs, in
            evaluation mode: of `traced`, with half-steps, and with fitted ones (``context["loss"]``).
        optimizer: The optimizer that trains `traced`, or several. Copies join the groups of their originals; both
            halves begin with fresh moments.
        context: What the growth history shall remember of this event, JSON values.

    Raises:
        PassError: If a block cannot become two steps, with the reason; if there is nothing to fit, or to fit to.
        PlanError: If the optimizer cannot exchange the parameters.

    Example:
        >>> import torch, fxgrow
        >>> class Block(torch.nn.Linear):
        ...     def forward(self, x):
        ...         return x + torch.nn.functional.linear(x, self.weight, self.bias)
        >>> traced = fxgrow.trace(torch.nn.Sequential(Block(2, 2), Block(2, 2)), torch.randn(3, 2))
        >>> deeper = deepen(traced, "0")
        >>> torch.equal(deeper.get_parameter("0.weight"), traced.get_parameter("0.weight") / 2)
        True
        >>> sorted(fxgrow.new_parameters(deeper))
        ['0.bias', '0.weight', '2.bias', '2.weight']
    """
    if blocks is None:
        blocks = repeated_blocks(unwrap(traced))
    applied = Deepen(_paths(blocks), how)
    if loss_fn is not None and fit is None:
        raise PassError("it is measured on the pairs of fit=, and none are given", where="loss_fn", fix="give fit= too")
    if fit is not None and how == "zero":
        raise PassError("a silent copy has nothing to be fitted to", where="fit", fix="leave it out, or use half-steps")
    if fit is None:
        return remember(applied(traced, optimizer).graph_module, context)
    base, pairs = unwrap(traced), read_pairs(fit)
    trial = applied(base).graph_module  # where a fit is refused, the optimizer has not changed
    losses = [] if loss_fn is None else [mean_loss(module, loss_fn, pairs) for module in (base, trial)]
    errors = fit_copies(base, trial, applied.copies(base), pairs)
    told = {} if loss_fn is None else {"loss": [*losses, mean_loss(trial, loss_fn, pairs)]}
    deeper = applied(traced, optimizer).graph_module
    with torch.no_grad():
        for name in parameters_within(deeper, *applied.copies(base)):
            deeper.get_parameter(name).copy_(trial.get_parameter(name))
    return remember(deeper, {**(context or {}), "fit": {path: list(pair) for path, pair in errors.items()}, **told})


@checks_arguments(PassError)
def insert_block(
    traced: nn.Module,
    *,
    after: str | Sequence[str],
    optimizer: Optimizers | None = None,
    context: Mapping[str, Any] | None = None,
) -> fx.GraphModule:
    """Return a copy of `traced` in which copies of whole blocks, silenced to the identity, stand behind them.

    Depth is added uniformly, as in LLaMA Pro (Wu et al., ACL 2024): the baseline that growth has to beat. The result
    shares the parameters of `traced` and computes the same function.

    Args:
        traced: A traced model.
        after: Module path of a block (``"blocks.3"``), or several: each gets a copy behind it.
        optimizer: The optimizer that trains `traced`; copies join the groups of their originals, without state.
        context: What the growth history shall remember of this event, JSON values.

    Raises:
        PassError: If there is no such block, or it cannot be copied.
        PlanError: If the optimizer cannot take the new parameters.

    Example:
        >>> import torch, fxgrow
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
        >>> traced = fxgrow.trace(model, torch.randn(2, 4))
        >>> list(fxgrow.new_parameters(insert_block(traced, after="0")))
        ['2_gate', '2.weight', '2.bias']
    """
    blocks = after if isinstance(after, str) else tuple(after)
    return remember(InsertBlock(blocks)(traced, optimizer).graph_module, context)


@checks_arguments(PassError)
def widen(
    traced: nn.Module,
    site: str,
    *,
    by: int,
    how: Literal["pairs", "split"] = "pairs",
    heads: bool = False,
    seed: int = 0,
    optimizer: Optimizers | None = None,
    context: Mapping[str, Any] | None = None,
) -> fx.GraphModule:
    """Return a copy of `traced` with more hidden units at a site, which computes the same function.

    This is the one growth that cannot share parameters: those that hold the units are new, under their old names, and
    take the places of the old ones in the optimizer, with their moments.

    Args:
        traced: A traced model.
        site: Module path of a site whose output rows are hidden units: fc1 of an MLP, or q, k, v or qkv of attention.
        by: How many units to add; for attention, dimensions in each head, or heads.
        how: ``"pairs"``: two new units cancel each other; ``"split"``: a new unit and an old one share the old one's
            work, and its moments (``exp_avg / 2``, ``exp_avg_sq / 4`` for what comes in).
        heads: Whether to add heads, and not dimensions to every head.
        seed: Seed of the random weights that break the symmetry.
        optimizer: The optimizer that trains `traced`.
        context: What the growth history shall remember of this event, JSON values.

    Raises:
        PassError: If the width cannot change, with the reason, or `by` does not fit.
        PlanError: If the optimizer cannot exchange the parameters.

    Example:
        >>> import torch, fxgrow
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.GELU(), torch.nn.Linear(6, 2))
        >>> wide = widen(fxgrow.trace(model, torch.randn(2, 4)), "0", by=2)
        >>> [tuple(parameter.shape) for parameter in wide.parameters()]
        [(8, 4), (8,), (2, 8), (2,)]
    """
    return remember(Widen(site, by, how, heads, seed)(traced, optimizer).graph_module, context)


@checks_arguments(PassError)
def slim(
    traced: nn.Module, ratio: float = 0.5, *, heads: bool = False, optimizer: Optimizers | None = None
) -> fx.GraphModule:
    """Return a narrower model: a share of its hidden units, the residual streams as wide as they are.

    The function is *not* kept: this is where a model starts that shall grow. DeiT-S with 100 classes and half its
    hidden widths has 11,071,204 parameters.

    Args:
        traced: A traced model.
        ratio: The share of units that stay.
        heads: Whether attention loses heads, and not dimensions of every head. The number of parameters is the same.
        optimizer: An optimizer of `traced`, if there is one already.

    Raises:
        PassError: If the ratio is not between 0 and 1, or no width can change.
        PlanError: If the optimizer cannot exchange the parameters.

    Example:
        >>> import torch, fxgrow
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.GELU(), torch.nn.Linear(6, 2))
        >>> small = slim(fxgrow.trace(model, torch.randn(2, 4)), 0.5)
        >>> [tuple(parameter.shape) for parameter in small.parameters()]
        [(3, 4), (3,), (2, 3), (2,)]
    """
    return Slim(ratio, heads)(traced, optimizer).graph_module


@checks_arguments(PassError)
def fold_pairs(grown: nn.Module, *, optimizer: Optimizers | None = None) -> fx.GraphModule:
    """Return a copy of `grown` in which each published +- pair (operator `paper`) is one map (operator `branch`).

    Half the parameters, the same function. The moments of an optimizer go along; its learning rate for the folded
    parameters has to be doubled for training to go on as it would have (and the weight decay of AdamW halved).

    Args:
        grown: A grown model.
        optimizer: The optimizer that trains `grown`.

    Raises:
        PlanError: If the optimizer cannot exchange parameters.

    Example:
        >>> import torch, fxgrow
        >>> from fxgrow.passes import parse
        >>> traced = fxgrow.trace(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()), torch.randn(2, 4))
        >>> grown = parse('insert-pseudo-layers{rows={"0":[1]} operator=paper}')(traced).graph_module
        >>> [name for name, _ in fold_pairs(grown).named_parameters() if "pseudo" in name]
        ['0_pseudo_0.branch.weight', '0_pseudo_0.branch.bias']
    """
    return FoldPairs()(grown, optimizer).graph_module


@checks_arguments(PassError)
def merge_branches(grown: nn.Module, *, optimizer: Optimizers | None = None) -> fx.GraphModule:
    """Return a copy of `grown` in which the pseudo-layers of one kind beside each other at a site are one.

    One matrix product in place of one for each growth event, the same function. The moments of an optimizer go along.

    Args:
        grown: A grown model.
        optimizer: The optimizer that trains `grown`.

    Raises:
        PlanError: If the optimizer cannot exchange parameters.

    Example:
        >>> import torch, fxgrow
        >>> from fxgrow.passes import parse
        >>> traced = fxgrow.trace(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()), torch.randn(2, 4))
        >>> edit = parse('insert-pseudo-layers{rows={"0":[1]} operator=branch}')
        >>> grown = edit(edit(traced).graph_module).graph_module
        >>> merge_branches(grown).get_parameter("0_pseudo_0.branch.weight").shape
        torch.Size([2, 4])
    """
    return MergeBranches()(grown, optimizer).graph_module


@checks_arguments(PassError)
def undo(
    grown: nn.Module, events: Iterable[int] | None = None, *, optimizer: Optimizers | None = None
) -> fx.GraphModule:
    """Return a copy of `grown` without what growth events inserted; without `events`, without any.

    The parameters of the base are shared and stay as they are. When everything is undone, the graph is the base's, bit
    for bit, and the edit log is empty; when the last events are undone, the log ends before them; when others are, the
    undoing is an edit itself, so that files can be replayed.

    Args:
        grown: A grown model.
        events: Indices into the growth history (``record_of(grown).history``). Only insertions can be undone:
            pseudo-layers, residual edges and blocks, not `widen`.
        optimizer: The optimizer that trains `grown`: the parameters that go are dropped from it, with their state.

    Raises:
        PassError: If an event does not exist or cannot be undone, or if others grew inside what it inserted.

    Example:
        >>> import torch, fxgrow
        >>> traced = fxgrow.trace(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()), torch.randn(2, 4))
        >>> grown = fxgrow.insert_block(traced, after="0")
        >>> sorted(dict(undo(grown).named_parameters())) == sorted(dict(traced.named_parameters()))
        True
    """
    edits = None if events is None else edits_of_events(grown, tuple(events))
    return Undo(edits)(grown, optimizer).graph_module


def _paths(blocks: str | Sequence[str]) -> tuple[str, ...]:
    """Return module paths as a tuple; one may be given by itself."""
    paths = (blocks,) if isinstance(blocks, str) else tuple(blocks)
    if not paths:
        raise PassError("it names no blocks", where=f"blocks={blocks!r}", fix="give module paths, as 'blocks.3'")
    return paths
