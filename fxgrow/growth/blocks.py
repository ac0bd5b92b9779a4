"""Which residual blocks ask for more depth, by the scores of what is inside them."""

import torch.fx as fx
from torch import nn

from fxgrow.curvature.scores import Scores
from fxgrow.errors import PlanError
from fxgrow.graph.blocks import find_blocks
from fxgrow.graph.sites import find_sites
from fxgrow.passes.deepen import repeated_blocks
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.primitives.unwrapping import unwrap


@checks_arguments(PlanError)
def rank_blocks(traced: nn.Module, scores: Scores) -> dict[str, float]:
    """Return how strongly each residual block asks for more depth, the strongest first: for `fxgrow.deepen`.

    The number of a block is the sum of its neurons' priorities where they are positive, in the score's own units. With
    eigen-scores, hidden units alone are counted if there are any, the neurons with an activation behind them: least
    eigenvalues of splitting and of branch matrices are not on one scale. Numbers compare blocks of one kind.

    Args:
        traced: A traced model.
        scores: What `fxgrow.analyze` returned for it.

    Returns:
        Numbers by the module paths of the residual blocks that have others of their kind beside them.

    Raises:
        PlanError: If the scores are of another graph, or of no site inside such a block.
        PassError: If the model has no such blocks.

    Example:
        >>> import torch, fxgrow, torch.nn.functional as F
        >>> class Block(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc1, self.fc2 = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)
        ...     def forward(self, x):
        ...         return x + self.fc2(F.gelu(self.fc1(x)))
        >>> x, y = torch.randn(64, 4), torch.randint(4, (64,))
        >>> traced = fxgrow.trace(torch.nn.Sequential(Block(), Block(), Block(), torch.nn.Linear(4, 4)), x)
        >>> ranked = rank_blocks(traced, fxgrow.analyze(traced, F.cross_entropy, [(x, y)]))
        >>> sorted(ranked)
        ['0', '1', '2']
        >>> best, *_ = ranked
        >>> deeper = fxgrow.deepen(traced, best)
    """
    graph_module = unwrap(traced)
    scores.check(graph_module)
    inside = _scored_sites(graph_module, scores)
    counted = {path for path in scores if scores[path].matrix == "splitting"} or set(scores)
    found = {
        block: sum(scores[site].priority.clamp(min=0).sum().item() for site in sites if site in counted)
        for block, sites in inside.items()
    }
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def _scored_sites(graph_module: fx.GraphModule, scores: Scores) -> dict[str, list[str]]:
    """Return the sites with scores inside each repeated block."""
    repeated = repeated_blocks(graph_module)
    nodes = {block.path: set(block.nodes) for block in find_blocks(graph_module) if block.path in repeated}
    sites = find_sites(graph_module)
    found = {path: [site for site in scores if nodes[path] & set(sites[site].calls)] for path in repeated}
    if not any(found.values()):
        fix = f"analyze sites inside {repeated[0]} and its like"
        raise PlanError("none of them lies in a residual block", where="scores", fix=fix)
    return found
