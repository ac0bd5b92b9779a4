"""Optimizers that go on after a growth event: new parameters join existing groups, old state stays as it is.

`torch.optim.Optimizer.add_param_group` would do half of it: learning-rate schedulers keep one base rate for each group
and break when a group is added (pytorch issues 53712 and 79888). A group that gets longer disturbs none of them, and
the optimizers create the state of a parameter that has none at its first step: zero moments, step 0.
"""

from collections import defaultdict
from collections.abc import Mapping

import torch.fx as fx
from torch import nn
from torch.optim import LBFGS, Adagrad, Optimizer

from fxgrow.errors import PlanError
from fxgrow.graph.sites import Site, find_sites
from fxgrow.record.record import SiteGrowth, new_parameters, record_of

#: LBFGS flattens its parameters once; Adagrad creates its state when it is constructed
_FIXED_AT_CONSTRUCTION = (LBFGS, Adagrad)


def extend_optimizer(optimizer: Optimizer, grown: fx.GraphModule) -> None:
    """Append the parameters that the last growth event added to `grown` to the groups of the sites that grew.

    Weights join the group of their site's weight. Vectors (biases, scales) join the group of the site's bias where the
    optimizer holds one, so that a recipe without weight decay on biases stays one. Parameters that the optimizer
    already holds are left alone, and so is the state of all others. Nothing changes where anything is refused.

    Args:
        optimizer: The optimizer of the ungrown model, between two steps.
        grown: What `fxgrow.grow` returned.

    Raises:
        PlanError: If the optimizer does not hold the weight of a site that grew, or cannot take new parameters.
    """
    if isinstance(optimizer, _FIXED_AT_CONSTRUCTION):
        raise PlanError(
            "this optimizer cannot take new parameters after it was constructed",
            where=type(optimizer).__name__,
            fix="construct it again from grown.parameters(), or train with SGD, Adam or AdamW",
        )
    group_of = _groups_by_parameter(optimizer)
    appended: dict[int, list[tuple[str, nn.Parameter]]] = defaultdict(list)
    sites = find_sites(grown)
    for name, parameter in new_parameters(grown).items():
        if id(parameter) not in group_of:
            site = sites[_growth_of(name, grown).site]
            appended[_group(parameter, site, grown, group_of)].append((name, parameter))
    for index, named in appended.items():
        group = optimizer.param_groups[index]
        group["params"].extend(parameter for _, parameter in named)
        if "param_names" in group:
            group["param_names"].extend(name for name, _ in named)


def _groups_by_parameter(optimizer: Optimizer) -> dict[int, int]:
    """Map the identity of every parameter that the optimizer holds to the index of its group."""
    return {id(parameter): index for index, group in enumerate(optimizer.param_groups) for parameter in group["params"]}


def _growth_of(name: str, grown: fx.GraphModule) -> SiteGrowth:
    """Return the growth that a parameter belongs to: the one with the longest path, as pseudo-layers nest."""
    history = record_of(grown).history
    growths = [growth for growth in history[-1].sites if name.startswith(f"{growth.pseudo_layer}.")] if history else []
    if not growths:
        raise PlanError(
            "no growth event tells which site this new parameter belongs to",
            where=name,
            fix="append it to one of optimizer.param_groups[i]['params']",
        )
    return max(growths, key=lambda growth: len(growth.pseudo_layer))


def _group(parameter: nn.Parameter, site: Site, grown: fx.GraphModule, group_of: Mapping[int, int]) -> int:
    """Return the index of the group that a new parameter joins."""
    weight = group_of.get(id(grown.get_parameter(site.weight)))
    if weight is None:
        raise PlanError(
            "the optimizer does not hold this parameter, whose site grew",
            where=site.weight,
            fix="give the optimizer all parameters of the model, or exclude the site from growth",
        )
    if parameter.dim() > 1 or site.bias is None:
        return weight
    return group_of.get(id(grown.get_parameter(site.bias)), weight)
