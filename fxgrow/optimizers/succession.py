"""Optimizers that go on after a rewrite: new parameters join groups, those that are gone leave, all others stay.

`torch.optim.Optimizer.add_param_group` would do half of it: learning-rate schedulers keep one base rate for each group
and break when a group is added (pytorch issues 53712 and 79888). A group that gets longer disturbs none of them.

In every group that changes, parameters lie in the order of the new model's ``named_parameters()``. So an optimizer that
is built for a model loaded from a file, by the same rule, takes the state dict of this one.
"""

from collections.abc import Mapping

import torch.fx as fx
from torch import nn
from torch.optim import LBFGS, Optimizer

from fxgrow.errors import PlanError
from fxgrow.optimizers.groups import Group, Groups
from fxgrow.optimizers.kinship import added_parameters, kin
from fxgrow.optimizers.newcomers import Newcomers
from fxgrow.optimizers.state import inherited_state, initial_state
from fxgrow.optimizers.transaction import Optimizers, listed, unchanged_on_failure
from fxgrow.primitives.data_parallel import watch_wrappers
from fxgrow.primitives.unwrapping import unwrap
from fxgrow.record.lineage import Lineage
from fxgrow.record.record import new_parameters

_FIX = "give all optimizers of the model, which hold all of its parameters"


def carry_over(
    optimizer: Optimizers, before: fx.GraphModule, after: fx.GraphModule, lineages: Mapping[str, Lineage]
) -> None:
    """Let the optimizer of `before` train `after`: new parameters come in, those that are gone go out.

    The state of parameters that both graphs have is left alone, unless a lineage says otherwise. Nothing has changed
    where anything is refused.

    Args:
        optimizer: The optimizer of `before`, or all of its optimizers, between two steps.
        before: The graph that was rewritten.
        after: What became of it.
        lineages: Where each new parameter comes from, and each old one whose moments change.

    Raises:
        PlanError: If no optimizer holds an ancestor of a new parameter that is to be trained, or one keeps state that
            cannot be carried over.
    """
    with unchanged_on_failure(optimizer):
        succession, added = _Succession(optimizer, before, after, lineages), set(added_parameters(before, after))
        for name, parameter in after.named_parameters():
            if name in added and not succession.join(name) and parameter.requires_grad:
                raise _homeless(name, lineages)
            if name in lineages and name not in added:
                succession.revise(name)
        succession.finish()


def extend_optimizer(optimizer: Optimizers, grown: nn.Module) -> tuple[str, ...]:
    """Add the parameters that the last growth event added to `grown` to the groups of the sites that grew.

    Weights join the group of their site's weight, vectors (biases, scales) that of the site's bias. Parameters that are
    held already are left alone. Where several optimizers train the model, as Muon and AdamW, give them together, or
    one after the other: each takes what descends from parameters that it holds. Nothing changes where it is refused.

    Args:
        optimizer: The optimizer of the ungrown model, between two steps, or several.
        grown: What `fxgrow.grow` returned.

    Returns:
        The names of new parameters that are left for other optimizers.

    Raises:
        PlanError: If there is nothing that the optimizer could take.
    """
    names, model = tuple(new_parameters(grown)), unwrap(grown)
    with unchanged_on_failure(optimizer):
        succession = _Succession(optimizer, model, model, kin(model, names))
        left = tuple(name for name in names if not succession.join(name))
        if left and left == names:
            raise _homeless(left[0], succession.lineages)
        succession.finish()
    return left


def _homeless(name: str, lineages: Mapping[str, Lineage]) -> PlanError:
    if name not in lineages:
        fix = "declare it in `lineages` of the pass, or append it to one of optimizer.param_groups[i]['params']"
        return PlanError("nothing tells which group this new parameter belongs to", where=name, fix=fix)
    where = lineages[name].sources[-1]
    return PlanError(f"the optimizer does not hold this parameter, from which {name} comes", where=where, fix=_FIX)


class _Succession:
    """One rewrite as the optimizers see it, on its way."""

    def __init__(
        self, optimizer: Optimizers, before: fx.GraphModule, after: fx.GraphModule, lineages: Mapping[str, Lineage]
    ) -> None:
        self.before, self.after, self.lineages = before, after, lineages
        self.groups = Groups(listed(optimizer), before, after)
        self.old = {one: dict(one.state) for one in listed(optimizer)}  #: state before the rewrite
        self.joined: dict[Optimizer, list[str]] = {one: [] for one in listed(optimizer)}

    def join(self, name: str) -> bool:
        """Let a new parameter join its group, and say whether one holds it now."""
        parameter = self.after.get_parameter(name)
        if self.groups.of(parameter) is None and name in self.lineages:
            group = self.groups.choose(name, parameter, self._ancestors(name))
            if group is not None:
                self.groups.add(group, name, parameter)
                self.joined[group.optimizer].append(name)
                self._start(group, name)
        return self.groups.of(parameter) is not None

    def revise(self, name: str) -> None:
        """Change the moments of a parameter that was there before, if an optimizer holds it."""
        group = self.groups.of(self.after.get_parameter(name))
        if group is not None:
            self._start(group, name)

    def finish(self) -> None:
        """Drop what is gone, put every group that changed in order, and see to it that what is new gets trained."""
        for optimizer in self.groups.settle():
            _restart_history(optimizer)
        for optimizer, names in self.joined.items():
            if names:
                ancestors = [ancestor for name in names for ancestor in self._ancestors(name)]
                Newcomers(optimizer, {name: self.after.get_parameter(name) for name in names}, ancestors, self.before)
        watch_wrappers(self.after)

    def _start(self, group: Group, name: str) -> None:
        """Give a parameter the state with which it goes on."""
        optimizer, parameter = group.optimizer, self.after.get_parameter(name)
        states = [self.old[optimizer].get(ancestor, {}) for ancestor in self._ancestors(name)]
        state = inherited_state(optimizer, group.options, parameter, self.lineages[name], states)
        optimizer.state.pop(parameter, None)
        state = initial_state(optimizer, group.options, parameter) if state is None else state
        if state:
            optimizer.state[parameter] = state
        _restart_history(optimizer)

    def _ancestors(self, name: str) -> list[nn.Parameter]:
        known = dict(self.before.named_parameters(remove_duplicate=False))
        for source in self.lineages[name].sources:
            if source not in known:
                what, fix = f"{name} cannot come from it: the model has no such parameter", "name one that it has"
                raise PlanError(what, where=source, fix=fix)
        return [known[source] for source in self.lineages[name].sources]


def _restart_history(optimizer: Optimizer) -> None:
    """Let LBFGS, whose history is one of the whole vector of parameters, begin a new one."""
    if isinstance(optimizer, LBFGS):
        optimizer.state.clear()
        optimizer._numel_cache = None
