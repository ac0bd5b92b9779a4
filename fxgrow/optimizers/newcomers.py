"""Whether what an optimizer took in is what is trained: growth behind the back of a trainer must not pass in silence.

A rewrite makes another graph, and the optimizer goes on with that. Who holds the old one, as the loop of a trainer or a
writer of checkpoints does, notices nothing. The first step behind the rewrite shows who is right.
"""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch.fx as fx
from torch import nn
from torch.optim import Optimizer

from fxgrow.errors import PlanError
from fxgrow.graph.likeness import leave_behind


class Newcomers:
    """The parameters that one optimizer took in at one rewrite, until the next step shows whether they are trained.

    Args:
        optimizer: The optimizer.
        parameters: The parameters that it took in, by name.
        ancestors: The parameters from which they come: a model in which these have gradients runs.
        before: The graph that was rewritten. From a step that trains the newcomers on, its state is out of date.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        parameters: Mapping[str, nn.Parameter],
        ancestors: Sequence[nn.Parameter],
        before: fx.GraphModule,
    ) -> None:
        self.parameters, self.ancestors = weakref.WeakValueDictionary(parameters), ancestors
        self.optimizer, self.before = weakref.ref(optimizer), weakref.ref(before)
        self.trained = False
        #: gradients that lay there at the rewrite, between a backward pass and its step: they tell nothing
        self.earlier = [parameter.grad for parameter in ancestors if parameter.grad is not None]
        # behind the step, since many trainers run the model in it, as a closure
        optimizer.register_step_post_hook(self._check)

    def held(self) -> dict[str, nn.Parameter]:
        """Return those that the optimizer steps; the rewrite may have been undone since."""
        optimizer = self.optimizer()
        groups = optimizer.param_groups if optimizer is not None else []
        held = {id(parameter) for group in groups for parameter in group["params"]}
        return {name: one for name, one in self.parameters.items() if id(one) in held and one.requires_grad}

    def _check(self, *_: Any) -> None:
        if self.trained or not (held := self.held()):
            return
        if any(parameter.grad is not None for parameter in held.values()):
            self.trained, self.ancestors, self.earlier = True, (), []
            self._leave_behind()
        elif self._ancestors_run():
            what = "the optimizer holds it, but it gets no gradient: the model from before the rewrite is trained"
            fix = "train what the rewrite returned, or let one model grow in place (fxgrow.Grower, docs/trainers.md)"
            raise PlanError(what, where=next(iter(held)), fix=fix)

    def _ancestors_run(self) -> bool:
        """Say whether the ancestors have gradients that were made behind the rewrite."""
        found = [parameter.grad for parameter in self.ancestors if parameter.grad is not None]
        self.earlier = [grad for grad in self.earlier if any(grad is one for one in found)]
        return len(found) > len(self.earlier)

    def _leave_behind(self) -> None:
        """Note that the graph of before is out of date, unless it has become what came of it."""
        before, newcomers = self.before(), {id(parameter) for parameter in self.parameters.values()}
        if before is not None and newcomers.isdisjoint(id(parameter) for parameter in before.parameters()):
            leave_behind(before, lambda: bool(self.held()))
