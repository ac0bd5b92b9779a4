"""fxgrow grows neural networks while they train.

`trace` a model, `analyze` the curvature of its loss, `grow` the graph where the scores say so, `verify` that the
function is unchanged, go on training (`Grower`, `compile`), `save` and `load`. Names are resolved on first use, so
that ``import fxgrow`` and ``fxgrow --help`` need not wait for torch.
"""

from typing import TYPE_CHECKING

from fxgrow.lazy import attach

if TYPE_CHECKING:
    from fxgrow.curvature import Scores as Scores
    from fxgrow.curvature import SiteScores as SiteScores
    from fxgrow.curvature import analyze as analyze
    from fxgrow.errors import FxgrowError as FxgrowError
    from fxgrow.execution.place import Place as Place
    from fxgrow.files import load as load
    from fxgrow.files import save as save
    from fxgrow.graph.network import depth_map as depth_map
    from fxgrow.graph.network import to_networkx as to_networkx
    from fxgrow.graph.sites import find_sites as find_sites
    from fxgrow.growth import Plan as Plan
    from fxgrow.growth import grow as grow
    from fxgrow.growth import plan as plan
    from fxgrow.growth import rank_blocks as rank_blocks
    from fxgrow.inside import grow_inside as grow_inside
    from fxgrow.inside import trace_inside as trace_inside
    from fxgrow.progressive import Progressive as Progressive
    from fxgrow.progressive import Stage as Stage
    from fxgrow.record.record import Origin as Origin
    from fxgrow.record.record import new_parameters as new_parameters
    from fxgrow.rewriting import add_residual_edge as add_residual_edge
    from fxgrow.rewriting import deepen as deepen
    from fxgrow.rewriting import fold_pairs as fold_pairs
    from fxgrow.rewriting import insert_block as insert_block
    from fxgrow.rewriting import merge_branches as merge_branches
    from fxgrow.rewriting import slim as slim
    from fxgrow.rewriting import undo as undo
    from fxgrow.rewriting import widen as widen
    from fxgrow.tracing import trace as trace
    from fxgrow.training import Grower as Grower
    from fxgrow.training import compile as compile
    from fxgrow.verification import verify as verify

__version__ = "0.1.0"

_HOMES = {
    "FxgrowError": "fxgrow.errors",
    "Grower": "fxgrow.training",
    "Origin": "fxgrow.record.record",
    "Place": "fxgrow.execution.place",
    "Plan": "fxgrow.growth",
    "Progressive": "fxgrow.progressive",
    "Scores": "fxgrow.curvature",
    "SiteScores": "fxgrow.curvature",
    "Stage": "fxgrow.progressive",
    "add_residual_edge": "fxgrow.rewriting",
    "analyze": "fxgrow.curvature",
    "compile": "fxgrow.training",
    "deepen": "fxgrow.rewriting",
    "depth_map": "fxgrow.graph.network",
    "find_sites": "fxgrow.graph.sites",
    "fold_pairs": "fxgrow.rewriting",
    "grow": "fxgrow.growth",
    "grow_inside": "fxgrow.inside",
    "insert_block": "fxgrow.rewriting",
    "load": "fxgrow.files",
    "merge_branches": "fxgrow.rewriting",
    "new_parameters": "fxgrow.record.record",
    "plan": "fxgrow.growth",
    "rank_blocks": "fxgrow.growth",
    "save": "fxgrow.files",
    "slim": "fxgrow.rewriting",
    "to_networkx": "fxgrow.graph.network",
    "trace": "fxgrow.tracing",
    "trace_inside": "fxgrow.inside",
    "undo": "fxgrow.rewriting",
    "verify": "fxgrow.verification",
    "widen": "fxgrow.rewriting",
}

#: Rooms that are reached as attributes, as in ``fxgrow.plot.depth_map``.
_ROOMS = ("export", "inspection", "plot", "report", "results")

__all__ = [*_HOMES, "__version__"]
__getattr__, __dir__ = attach(__name__, _HOMES, rooms=_ROOMS)
