"""A pass of your own: call other activations, checked like any pass of fxgrow, alone and in a pipeline.

Run: python examples/write_a_pass.py    (seconds)

docs/write_a_pass.md explains the contract, and how `fxgrow.testing` checks a pass on sample and random networks.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.fx as fx
from torch import nn

import fxgrow
from fxgrow.passes import Pass, Pipeline, find_pass


@dataclass(frozen=True)
class SwapActivations(Pass):
    """Call one activation module in place of another; shapes and parameters stay, the function does not.

    Args:
        old: Name of the activation of torch.nn that goes.
        new: Name of the one that comes.
    """

    old: str = "ReLU"
    new: str = "GELU"

    name: ClassVar[str] = "swap-activations"
    preserves_function: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Put a new module beside each old one, and call that: the old ones are shared with the graph as it was."""
        for node in graph_module.graph.nodes:
            if node.op == "call_module" and type(graph_module.get_submodule(node.target)) is getattr(nn, self.old):
                graph_module.add_submodule(f"{node.target}_swapped", getattr(nn, self.new)())
                node.target = f"{node.target}_swapped"


def main() -> None:
    """Run the pass alone, and before one of fxgrow's."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    traced = fxgrow.trace(model, torch.zeros(2, 8))
    result = SwapActivations()(traced)
    print(f"modified: {result.modified}; what it was given has still {type(traced.get_submodule('1')).__name__}")

    pipeline = Pipeline((SwapActivations(), find_pass("widen")(site="2", by=4)))
    print(f"as text: {pipeline}")
    sizes = [sum(p.numel() for p in graph.parameters()) for graph in (traced, pipeline(traced).graph_module)]
    print(f"parameters {sizes[0]} -> {sizes[1]}")


if __name__ == "__main__":
    main()
