"""Functionalize in-place operations: let each value be written once."""

from dataclasses import dataclass
from typing import ClassVar

import torch.fx as fx

from fxgrow.graph.normalisation import normalise
from fxgrow.passes.base import Pass
from fxgrow.passes.insertion import Insertion


@dataclass(frozen=True)
class FunctionalizeInplace(Pass):
    """Let operations return a new value instead of overwriting their argument.

    A residual edge may lead from any value of the graph. Into a value that is overwritten later it would carry the
    wrong numbers, without an error.

    Rewrites:
        1. Modules with ``inplace=True`` and no parameters, as ``nn.ReLU(inplace=True)``: a new module takes their place
           in the graph; the flag of the user's module is not touched.
        2. Functions with ``inplace=True``, as ``F.relu(x, inplace=True)``, or an underscore, as ``torch.relu_(x)``.
        3. ``operator.iadd`` and its kin: ``operator.add``.
        4. Methods: ``x.add_(y)`` becomes ``x.add(y)``.
        5. Assignments to a part, as ``x[:, 0] = y``, and ``copy_``, ``fill_`` and ``zero_``: `fxgrow.primitives.put`.
        6. ``out=`` of a tensor of the result's shape and dtype.

        Who reads the overwritten value afterwards reads the result instead. An input of the graph that was overwritten
        keeps its value.

    Leaves alone:
        1. Values of which another view is read afterwards, such as ``view``, ``chunk`` or an item, or that some
           operation may have passed through (`fxgrow.graph.operations`).
        2. Operations without a functional namesake, as ``normal_``.
        3. Parameters, buffers and constants (`get_attr`): writing them is what such an operation is for.
        4. Operands that would give a new result another dtype, as a float that is added in place to a half.

    Preserves:
        Outputs, gradients, the random stream, parameters and their names. Idempotent.
    """

    name: ClassVar[str] = "functionalize-inplace"

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Rewrite one operation after the other, in the order in which they run."""
        normalise(graph_module)

    def inverse(self, graph_module: fx.GraphModule, edit: int) -> tuple[Insertion, ...]:
        """Return nothing: the normal form stays."""
        return ()
