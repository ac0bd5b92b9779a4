"""Provenance goes from frozen types into plain JSON and back."""

import json

import pytest
import torch.fx as fx
from torch import nn

from fxgrow.record.annotations import annotate, annotation
from fxgrow.record.provenance import (
    BlockNode,
    Provenance,
    PseudoLayerNode,
    ResidualEdge,
    edge_of,
    mark,
    part_of,
    provenance_of,
    read_provenance,
    write_provenance,
)

EXAMPLES = [
    Provenance(),
    Provenance("widen", 3),
    Provenance("insert-pseudo-layers", 0, PseudoLayerNode("fc1_pseudo_0", "fc1")),
    Provenance("insert-pseudo-layers", 1, ResidualEdge("fc1_pseudo_0", "fc1", (0, 3), merged=(0, 1))),
    Provenance("add-residual-edge", 2, ResidualEdge("fc1_edge_0", "fc1", moved=True)),
    Provenance("insert-block", 4, None, BlockNode("blocks.2", entry=0)),
    Provenance(
        "insert-block", 5, ResidualEdge("blocks.2.fc1_pseudo_0", "blocks.2.fc1", ()), BlockNode("blocks.2", exit=True)
    ),
]


def node() -> fx.Node:
    return next(iter(fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2))).graph.nodes))


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_is_written_is_read(example: Provenance) -> None:
    written = node()
    write_provenance(written, example)
    assert provenance_of(written) == example
    assert read_provenance(json.loads(json.dumps(annotation(written)))) == example


def test_a_node_of_the_base_has_none() -> None:
    assert (provenance_of(node()), part_of(node()), edge_of(node())) == (None, None, None)


def test_marking_keeps_the_edit_and_the_other_part() -> None:
    marked = node()
    write_provenance(marked, Provenance("insert-block", 4))
    mark(marked, PseudoLayerNode("a_pseudo_0", "a"))
    mark(marked, BlockNode("blocks.2"))
    assert provenance_of(marked) == Provenance(
        "insert-block", 4, PseudoLayerNode("a_pseudo_0", "a"), BlockNode("blocks.2")
    )


def test_marking_a_copy_leaves_the_original() -> None:
    original, copied = node(), node()
    mark(original, PseudoLayerNode("a_pseudo_0", "a"))
    copied.meta = dict(original.meta)
    mark(copied, BlockNode("blocks.2"))
    assert provenance_of(original) == Provenance(part=PseudoLayerNode("a_pseudo_0", "a"))


def test_other_annotations_stay() -> None:
    annotated = node()
    annotate(annotated, flops=3)
    mark(annotated, BlockNode("blocks.2"))
    assert annotation(annotated)["flops"] == 3


def test_what_was_copied_with_a_block_belongs_to_the_block() -> None:
    assert EXAMPLES[-1].owner == "blocks.2"
    assert EXAMPLES[2].owner == "fc1_pseudo_0"
    assert EXAMPLES[1].owner == ""


def test_a_merged_edge_stands_for_all_of_its_edits() -> None:
    assert EXAMPLES[3].edits == {0, 1}
