"""What an optimizer keeps for one parameter: where it starts, and what becomes of it when the parameter is replaced.

Duplicated weights follow the rule of staged training (Shen et al., ICML 2022): one whose gradient halves has
``exp_avg / 2`` and ``exp_avg_sq / 4``; new weights have zero moments and the step count of the old.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import ASGD, SGD, Adagrad, Optimizer, RMSprop

from fxgrow.errors import PlanError
from fxgrow.record.lineage import Lineage, Moments

State = dict[str, Any]

#: how each kind of state scales with the gradient: as its power of this order
_ORDERS: Mapping[str, int] = {
    "acc_delta": 0, "step_size": 0,
    "exp_avg": 1, "exp_inf": 1, "grad_avg": 1, "momentum_buffer": 1, "prev": 1,
    "exp_avg_sq": 2, "max_exp_avg_sq": 2, "square_avg": 2, "sum": 2, "variance": 2,
}  # fmt: skip


def initial_state(optimizer: Optimizer, group: Mapping[str, Any], parameter: nn.Parameter) -> State:
    """Return the state of a parameter that starts without moments, where `step` does not make it by itself."""
    if isinstance(optimizer, Adagrad):  # makes its state when it is constructed
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        return dict(Adagrad([{**options, "params": [parameter]}]).state[parameter])
    if isinstance(optimizer, SGD) and group["fused"]:  # whose step wants a buffer for every parameter or for none
        states = (optimizer.state[held] for held in group["params"] if held in optimizer.state)
        if any(state.get("momentum_buffer") is not None for state in states):
            return {"momentum_buffer": torch.zeros_like(parameter)}
    return {}


def inherited_state(
    optimizer: Optimizer, group: Mapping[str, Any], parameter: nn.Parameter, lineage: Lineage, states: Sequence[State]
) -> State | None:
    """Return the state of a parameter that has moments from its sources; None where those have none yet.

    Numbers, as the step count, are those of the source that was stepped most.

    Raises:
        PlanError: If the optimizer keeps something of which it is not known how it scales with the gradient.
    """
    if lineage.moments is None or not all(states):
        return None
    eldest = max(states, key=lambda state: float(state.get("step", 0)))
    inherited = {key: value.clone() if isinstance(value, Tensor) else value for key, value in eldest.items()}
    with torch.no_grad():
        for key in eldest:
            values = [state.get(key) for state in states]
            if key in ("row_var", "col_var"):
                continue
            if all(isinstance(value, Tensor) and value.dim() for value in values):
                inherited[key] = _carried(optimizer, group, parameter, lineage, key, values)
        if "row_var" in eldest:
            inherited |= _refactored(lineage.moments, states)
    return inherited


def _carried(
    optimizer: Optimizer, group: Mapping[str, Any], parameter: nn.Parameter, lineage: Lineage, key: str, values: Any
) -> Tensor:
    if isinstance(optimizer, ASGD) and key == "ax":
        return parameter.detach().clone()  # an average over the values of the parameter, which begins anew
    if key not in _ORDERS:
        fix = f"train with an optimizer of torch, or clear optimizer.state[...][{key!r}]"
        what = f"the optimizer keeps {key!r}, which cannot be carried over"
        raise PlanError(what, where=lineage.sources[0], fix=fix)
    assert lineage.moments is not None
    # RMSprop's buffer adds up gradients that are divided by their size.
    order = 0 if isinstance(optimizer, RMSprop) and key == "momentum_buffer" else _ORDERS[key]
    rest = {"sum": group.get("initial_accumulator_value", 0.0), "step_size": group["lr"]}.get(key, 0.0)
    if not rest:
        return lineage.moments(values, order)
    return lineage.moments([value - rest for value in values], order) + rest


def _refactored(moments: Moments, states: Sequence[State]) -> State:
    """Carry Adafactor's second moments over: they are kept as row and column means of a matrix of rank one."""
    whole = []
    for state in states:
        row, column = state["row_var"], state["col_var"]
        mean = row.mean(-2, keepdim=True)
        whole.append(torch.where(mean > 0, row * column / mean.clamp(min=torch.finfo(mean.dtype).tiny), 0.0))
    variance = moments(whole, 2)
    return {"row_var": variance.mean(-1, keepdim=True), "col_var": variance.mean(-2, keepdim=True)}
