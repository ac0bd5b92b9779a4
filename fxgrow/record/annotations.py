"""What fxgrow writes on a node: the only module that touches ``node.meta["custom"]["fxgrow"]``.

Of the keys in ``node.meta`` only ``"custom"`` survives ``fx.Transformer`` and ``torch.export``, so that is where the
annotations lie, as plain JSON. torch.fx copies ``meta`` shallowly when it copies a graph: an annotation is therefore
replaced and never changed in place, or the copy would write on the original.
"""

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    import torch.fx as fx

KEY = "fxgrow"
#: why nothing may grow at a site none of whose neurons is `reached`: it could not learn
NO_GRADIENT = "no gradient of the loss reaches it"


class ScoreAnnotation(TypedDict):
    """The scores of one site, on the node that calls it. Lists have one number for each neuron."""

    digest: str  #: the graph on which they were measured (`fxgrow.record.digest.digest`)
    score: str  #: the score's registered name, as in ``"eigen"``
    sign: Literal[-1, 1]  #: +1 where a larger value asks for growth, -1 where a smaller one does
    matrix: str  #: ``"branch"`` or ``"splitting"``
    eigenvalues: list[float]
    held_out: list[float] | None  #: None where the data could not be halved
    stderr: list[float] | None
    reliability: float | None  #: rank correlation of the two halves' scores
    samples: int
    reached: list[bool] | None  #: whether each neuron gets a gradient of the loss; None where all do


class RepeatAnnotation(TypedDict):
    """Which rows of a site a half-step repeats, and where."""

    site: str
    copy: str  #: the site in the half-step
    rows: list[int]


class ProvenanceAnnotation(TypedDict, total=False):
    """Which edit made a node, as `fxgrow.record.provenance` reads and writes it."""

    edit: int  #: index into the edit log
    pass_name: str
    role: Literal["pseudo-layer", "residual-edge", "block"]
    pseudo_layer: str  #: module path of the pseudo-layer that the node belongs to
    site: str  #: module path of the site that grew
    rows: list[int]  #: on a residual edge of a pseudo-layer, the neurons that grew
    block: str  #: module path of the inserted block that the node belongs to
    entry: int  #: on the first node that reads an inserted block's input: which of its inputs that is
    exit: bool  #: whether the node's value is what an inserted block makes of its input
    repeats: list[RepeatAnnotation]  #: on the sum of a half-step
    moved: bool  #: on a residual edge: inserting it changed the order of other nodes
    merged: list[int]  #: on a residual edge: edits whose pseudo-layers were merged into this one


class Annotation(TypedDict, total=False):
    """All that fxgrow may write on a node."""

    scores: ScoreAnnotation
    provenance: ProvenanceAnnotation
    flops: int  #: two for a multiply-add, as torch.utils.flop_counter counts them
    integers: list[int]  #: on a placeholder of integers: the least and the greatest that the example inputs held
    values: list[Any]  #: on a placeholder of integers: what the example input held, where control flow depends on it


def annotation(node: "fx.Node") -> Annotation:
    """Return what fxgrow wrote on `node`; an empty annotation where it wrote nothing."""
    return node.meta.get("custom", {}).get(KEY, {})


def annotate(node: "fx.Node", **fields: Any) -> None:
    """Set fields of the annotation of `node`, keeping the others; ``None`` removes a field."""
    merged = {**annotation(node), **fields}
    merged = {name: value for name, value in merged.items() if value is not None}
    node.meta["custom"] = {**node.meta.get("custom", {}), KEY: merged}
