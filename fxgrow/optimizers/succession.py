"""Optimizers that go on after parameters were replaced: the state of the old ones becomes that of the new ones.

A rewrite that resizes, folds or merges cannot keep parameters, so it says where its new ones come from
(`fxgrow.record.lineage`). Duplicated weights follow the rule of staged training (Shen et al., ICML 2022): one whose
gradient halves has ``exp_avg / 2`` and ``exp_avg_sq / 4``; new weights have zero moments and the step count of the old.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.optim import LBFGS, Adagrad, Optimizer

from fxgrow.errors import PlanError
from fxgrow.record.lineage import Lineage

#: state that is linear in the gradient, and state that is quadratic in it
_FIRST = {"exp_avg", "momentum_buffer", "grad_avg"}
_SECOND = {"exp_avg_sq", "max_exp_avg_sq", "square_avg"}


def carry_over(
    optimizer: Optimizer, before: fx.GraphModule, after: fx.GraphModule, lineages: Mapping[str, Lineage]
) -> None:
    """Let an optimizer of `before` train `after`: new parameters come in, those that are gone go out.

    New parameters take the place of their first ancestor where that one is gone, and join its group otherwise. State
    of the parameters that both graphs have is left alone, and nothing changes where anything is refused.

    Args:
        optimizer: The optimizer of `before`, between two steps.
        before: The graph that was rewritten.
        after: What became of it.
        lineages: For each new parameter, where it comes from.

    Raises:
        PlanError: If the optimizer does not hold an ancestor, or keeps state that cannot be carried over.
    """
    if isinstance(optimizer, LBFGS | Adagrad):
        fix = "construct it again from the parameters of the new model, or train with SGD, Adam or AdamW"
        raise PlanError("its parameters cannot be exchanged", where=type(optimizer).__name__, fix=fix)
    kept = {id(parameter) for parameter in after.parameters()}
    old = {id(parameter) for parameter in before.parameters()}
    gone = [parameter for parameter in before.parameters() if id(parameter) not in kept]
    groups, states = [list(group["params"]) for group in optimizer.param_groups], {}
    names = [list(group.get("param_names", ())) for group in optimizer.param_groups]
    for name, parameter in after.named_parameters():
        if id(parameter) in old:
            continue
        ancestors = [before.get_parameter(source) for source in _lineage(name, lineages).sources]
        index, place = _place(groups, ancestors[0], lineages[name].sources[0])
        replaced = any(parameter is ancestors[0] for parameter in gone)
        groups[index].insert(place + 1 if replaced else len(groups[index]), parameter)
        if names[index]:
            names[index].insert(place + 1 if replaced else len(names[index]), name)
        states[parameter] = _inherited(lineages[name], [optimizer.state.get(ancestor, {}) for ancestor in ancestors])
    for group, parameters, labels in zip(optimizer.param_groups, groups, names, strict=True):
        group["params"] = parameters
        if labels:
            group["param_names"] = labels
    optimizer.state.update({parameter: state for parameter, state in states.items() if state})
    drop_parameters(optimizer, gone)


def drop_parameters(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Take parameters out of an optimizer, with their state; those that it does not hold do not matter."""
    dropped = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        stay = [index for index, parameter in enumerate(group["params"]) if id(parameter) not in dropped]
        group["params"] = [group["params"][index] for index in stay]
        if "param_names" in group:
            group["param_names"] = [group["param_names"][index] for index in stay]
    for parameter in [parameter for parameter in optimizer.state if id(parameter) in dropped]:
        del optimizer.state[parameter]


def _lineage(name: str, lineages: Mapping[str, Lineage]) -> Lineage:
    if name not in lineages:
        fix = "append it to one of optimizer.param_groups[i]['params']"
        raise PlanError("nothing tells which group this new parameter belongs to", where=name, fix=fix)
    return lineages[name]


def _place(groups: list[list[nn.Parameter]], parameter: nn.Parameter, name: str) -> tuple[int, int]:
    """Return the group that holds `parameter`, and its place there."""
    for index, group in enumerate(groups):
        for place, held in enumerate(group):
            if held is parameter:
                return index, place
    fix = "give the optimizer all parameters of the model"
    raise PlanError("the optimizer does not hold this parameter, from which new ones come", where=name, fix=fix)


def _inherited(lineage: Lineage, states: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the state of a new parameter; empty where it starts without, or where no step was made yet."""
    known = next((state for state in states if state), None)
    if lineage.moments is None or known is None or not all(states):
        return {}
    inherited: dict[str, Any] = {}
    for key, value in known.items():
        if value is None or not isinstance(value, Tensor) or value.dim() == 0:
            values = [state[key] for state in states]
            inherited[key] = max(values) if key == "step" else values[0]
            if isinstance(inherited[key], Tensor):
                inherited[key] = inherited[key].clone()
        elif key in _FIRST or key in _SECOND:
            with torch.no_grad():
                inherited[key] = lineage.moments([state[key] for state in states], 1 if key in _FIRST else 2)
        else:
            fix = f"train with SGD, Adam or AdamW, or clear optimizer.state[...][{key!r}]"
            raise PlanError(
                f"the optimizer keeps {key!r}, which cannot be carried over", where=lineage.sources[0], fix=fix
            )
    return inherited
