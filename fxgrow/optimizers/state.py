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
        start = optimizer.defaults["initial_accumulator_value"]
        return dict(Adagrad([parameter], initial_accumulator_value=start, fused=group["fused"]).state[parameter])
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

    Args:
        optimizer: The optimizer.
        group: The options of the parameter's group.
        parameter: The parameter that goes on.
        lineage: Where it comes from.
        states: The states of its sources.

    Raises:
        PlanError: If the optimizer keeps something of which it is not known how it scales with the gradient.
    """
    if lineage.moments is None or not all(states):
        return None
    eldest = max(states, key=lambda state: float(state.get("step", 0)))
    inherited = {key: value.clone() if isinstance(value, Tensor) else value for key, value in eldest.items()}
    with torch.no_grad():
        for key, value in eldest.items():
            if isinstance(optimizer, ASGD) and key == "ax":  # an average of the parameter's values, which begins anew
                inherited[key] = parameter.detach().clone()
            elif key in ("row_var", "col_var"):
                inherited[key] = _factor(lineage.moments, states, key)
            elif isinstance(value, Tensor) and value.dim():
                start, order = _start(optimizer, group, key), _order(optimizer, lineage, key)
                carried = lineage.moments([state[key] - start if start else state[key] for state in states], order)
                inherited[key] = carried + start if start else carried
    return inherited


def _order(optimizer: Optimizer, lineage: Lineage, key: str) -> int:
    if isinstance(optimizer, RMSprop) and key == "momentum_buffer":
        return 0  # it adds up gradients that are divided by their size
    if key not in _ORDERS:
        fix = f"train with an optimizer of torch, or clear optimizer.state[...][{key!r}]"
        what = f"the optimizer keeps {key!r}, which cannot be carried over"
        raise PlanError(what, where=lineage.sources[0], fix=fix)
    return _ORDERS[key]


def _start(optimizer: Optimizer, group: Mapping[str, Any], key: str) -> Any:
    """Return the number at which a kind of state starts."""
    return {"sum": optimizer.defaults.get("initial_accumulator_value", 0.0), "step_size": group["lr"]}.get(key, 0.0)


def _factor(moments: Moments, states: Sequence[State], key: str) -> Tensor:
    """Carry a factor of Adafactor's second moments over: they are kept as row and column means of a matrix of rank one.

    The matrix is ``row_var * col_var / mean(row_var)`` (Shazeer and Stern, ICML 2018, algorithm 2).
    """
    whole = []
    for state in states:
        mean = state["row_var"].mean(-2, keepdim=True)
        whole.append(torch.where(mean > 0, state["row_var"] * state["col_var"] / mean, 0.0))
    return moments(whole, 2).mean(-1 if key == "row_var" else -2, keepdim=True)
