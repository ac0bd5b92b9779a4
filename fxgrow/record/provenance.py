"""Which edit made a node, and what it is a part of: frozen types over the plain JSON of a node's annotation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fxgrow.record.annotations import annotate, annotation

if TYPE_CHECKING:
    import torch.fx as fx


@dataclass(frozen=True)
class PseudoLayerNode:
    """A node of a pseudo-layer, or of the gate of a residual edge."""

    path: str  #: module path of the pseudo-layer
    site: str  #: module path of what grew


@dataclass(frozen=True)
class ResidualEdge:
    """The add that brings a pseudo-layer's output, or a gated value, back."""

    path: str  #: module path of the pseudo-layer or the gate
    site: str  #: module path of what grew
    rows: tuple[int, ...] | None = None  #: the neurons that grew; None for an edge of its own, which adds no depth
    moved: bool = False  #: whether inserting it changed the order of other nodes
    merged: tuple[int, ...] = ()  #: edits whose pseudo-layers were merged into this one


@dataclass(frozen=True)
class Repeat:
    """Which rows of a site a half-step repeats, and where."""

    site: str
    copy: str  #: the site in the half-step
    rows: tuple[int, ...]


@dataclass(frozen=True)
class BlockNode:
    """A node of an inserted block."""

    path: str  #: module path of the block
    entry: int | None = None  #: on the first node that reads the block's input: which of its inputs that is
    exit: bool = False  #: whether the node's value is what the block makes of its input
    repeats: tuple[Repeat, ...] = ()  #: on the sum of a half-step


@dataclass(frozen=True)
class Provenance:
    """What is known of the making of a node. A pseudo-layer that was copied with a block is a part of both."""

    pass_name: str = ""
    edit: int = -1  #: index into the edit log
    part: PseudoLayerNode | ResidualEdge | None = None
    block: BlockNode | None = None

    @property
    def edits(self) -> frozenset[int]:
        """All edits that had a hand in what the node stands for."""
        return frozenset([self.edit, *(self.part.merged if isinstance(self.part, ResidualEdge) else ())])

    @property
    def owner(self) -> str:
        """Module path of the outermost thing that was inserted with the node."""
        found = self.block or self.part
        return found.path if found else ""


def read_provenance(written: Mapping[str, Any]) -> Provenance | None:
    """Read the annotation of a node, or of a row of a file; None where no edit made the node.

    Raises:
        KeyError: If it is written otherwise than `write_provenance` writes it.
    """
    made = written.get("provenance")
    if made is None:
        return None
    part: PseudoLayerNode | ResidualEdge | None = None
    if made.get("role") == "pseudo-layer":
        part = PseudoLayerNode(made["pseudo_layer"], made["site"])
    elif made.get("role") == "residual-edge":
        rows, merged = made.get("rows"), tuple(made.get("merged", ()))
        part = ResidualEdge(
            made["pseudo_layer"], made["site"], None if rows is None else tuple(rows), made.get("moved", False), merged
        )
    repeats = tuple(Repeat(known["site"], known["copy"], tuple(known["rows"])) for known in made.get("repeats", ()))
    block = BlockNode(made["block"], made.get("entry"), made.get("exit", False), repeats) if "block" in made else None
    return Provenance(made.get("pass_name", ""), made.get("edit", -1), part, block)


def provenance_of(node: "fx.Node") -> Provenance | None:
    """Return what is known of the making of a node; None where no edit made it."""
    return read_provenance(annotation(node))


def write_provenance(node: "fx.Node", provenance: Provenance) -> None:
    """Write on a node how it was made, in place of what was written there."""
    made: dict[str, Any] = {"pass_name": provenance.pass_name, "edit": provenance.edit}
    part, block = provenance.part, provenance.block
    if part is not None:
        role = "residual-edge" if isinstance(part, ResidualEdge) else "pseudo-layer"
        made |= {"role": role, "pseudo_layer": part.path, "site": part.site}
    elif block is not None:
        made["role"] = "block"
    if isinstance(part, ResidualEdge):
        made |= {} if part.rows is None else {"rows": list(part.rows)}
        made |= {"moved": True} if part.moved else {}
        made |= {"merged": list(part.merged)} if part.merged else {}
    if block is not None:
        made |= {"block": block.path, **({} if block.entry is None else {"entry": block.entry})}
        made |= {"exit": True} if block.exit else {}
    if block is not None and block.repeats:
        made["repeats"] = [{"site": one.site, "copy": one.copy, "rows": list(one.rows)} for one in block.repeats]
    annotate(node, provenance=made)


def mark(node: "fx.Node", *parts: PseudoLayerNode | ResidualEdge | BlockNode) -> None:
    """Write on a node what it is a part of; which pass and which edit made it stays, or is written by the framework."""
    provenance = provenance_of(node) or Provenance()
    for part in parts:
        provenance = replace(provenance, block=part) if isinstance(part, BlockNode) else replace(provenance, part=part)
    write_provenance(node, provenance)


def part_of(node: "fx.Node") -> PseudoLayerNode | ResidualEdge | None:
    """Return the pseudo-layer or the residual edge that a node is a part of."""
    provenance = provenance_of(node)
    return provenance.part if provenance else None


def edge_of(node: "fx.Node") -> ResidualEdge | None:
    """Return the residual edge that a node is; None for any other."""
    part = part_of(node)
    return part if isinstance(part, ResidualEdge) else None
