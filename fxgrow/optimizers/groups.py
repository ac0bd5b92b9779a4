"""The parameter groups of all optimizers of a model: which of them a new parameter joins, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.fx as fx
from torch import nn
from torch.optim import Muon, Optimizer


@dataclass(frozen=True, eq=False)
class Group:
    """One parameter group: the dict that lies in ``optimizer.param_groups``."""

    optimizer: Optimizer
    options: dict[str, Any]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of the group, in its order."""
        parameters: list[nn.Parameter] = self.options["params"]
        return parameters


class Groups:
    """The groups of the optimizers of one model, while it is rewritten."""

    def __init__(self, optimizers: Sequence[Optimizer], before: fx.GraphModule, after: fx.GraphModule) -> None:
        self.before, self.after = before, after
        groups = [Group(optimizer, options) for optimizer in optimizers for options in optimizer.param_groups]
        self._home = {id(parameter): group for group in groups for parameter in group.parameters}
        self._joining: dict[Group, list[tuple[str, nn.Parameter]]] = {group: [] for group in groups}
        #: whether no group holds both matrices and vectors
        self._parted = all(len({_is_matrix(parameter) for parameter in group.parameters}) < 2 for group in groups)

    def of(self, parameter: nn.Parameter) -> Group | None:
        """Return the group that holds a parameter."""
        return self._home.get(id(parameter))

    def choose(self, name: str, parameter: nn.Parameter, ancestors: Sequence[nn.Parameter]) -> Group | None:
        """Return the group that a new parameter joins: that of its first ancestor that is held; None without any.

        Where that is a group of matrices and the new one is a vector, as at a site without a bias, the recipe may hold
        vectors elsewhere (no weight decay on them, Muon for matrices): then it joins the nearest vector.
        """
        homes = (self.of(ancestor) for ancestor in ancestors)
        group = next((home for home in homes if home is not None), None)
        if group is None or _takes(group, parameter, parted=self._parted):
            return group
        nearest = self._of_nearest_vector(name) if parameter.dim() < 2 else None
        return nearest or (group if _takes(group, parameter, parted=False) else None)

    def add(self, group: Group, name: str, parameter: nn.Parameter) -> None:
        """Note that a parameter joins a group; it comes in with `settle`."""
        self._home[id(parameter)] = group
        self._joining[group].append((name, parameter))

    def settle(self) -> set[Optimizer]:
        """Let parameters come in, take out those that are gone, put what changed in order; return what changed."""
        left = {id(parameter) for parameter in self.after.parameters()}
        gone = {id(parameter) for parameter in self.before.parameters()} - left
        changed = [
            group
            for group, joining in self._joining.items()
            if joining or any(id(parameter) in gone for parameter in group.parameters)
        ]
        for group in changed:
            self._reorder(group, gone)
        return {group.optimizer for group in changed}

    def _reorder(self, group: Group, gone: set[int]) -> None:
        """Order by the names of the model. Parameters of other models stay before or behind those of this one."""
        order = {id(parameter): place for place, parameter in enumerate(self.after.parameters())}
        labels = group.options.get("param_names", [""] * len(group.parameters))
        held = list(zip(labels, group.parameters, strict=True))
        places = [place for place, (_, parameter) in enumerate(held) if id(parameter) in order.keys() | gone]
        first = places[0] if places else len(held)
        front = held[:first]
        ours = [pair for pair in held[first:] if id(pair[1]) in order] + self._joining[group]
        behind = [pair for pair in held[first:] if id(pair[1]) not in order.keys() | gone]
        settled = [*front, *sorted(ours, key=lambda pair: order[id(pair[1])]), *behind]
        # The lists stay: LBFGS holds its own under another name.
        group.parameters[:] = [parameter for _, parameter in settled]
        if "param_names" in group.options:
            group.options["param_names"][:] = [label for label, _ in settled]
        for parameter in [held for held in group.optimizer.state if id(held) in gone]:
            del group.optimizer.state[parameter]

    def _of_nearest_vector(self, name: str) -> Group | None:
        """Return the group of the vector whose path has most in common with `name`."""
        held = [(other, self.of(p)) for other, p in self.before.named_parameters() if p.dim() < 2]
        found = [(_common_parts(name, other), group) for other, group in held if group is not None]
        return max(found, key=lambda pair: pair[0])[1] if found else None


def _takes(group: Group, parameter: nn.Parameter, *, parted: bool) -> bool:
    """Say whether a group takes a parameter; where matrices and vectors are parted, only its like."""
    if isinstance(group.optimizer, Muon):
        return parameter.dim() == 2
    return not parted or not group.parameters or _is_matrix(group.parameters[0]) == _is_matrix(parameter)


def _is_matrix(parameter: nn.Parameter) -> bool:
    return parameter.dim() > 1


def _common_parts(one: str, other: str) -> int:
    """Return how many leading parts two dotted paths share."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return next((place for place, (left, right) in enumerate(pairs) if left != right), len(one.split(".")))
