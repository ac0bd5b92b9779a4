"""What the nodes of a graph do besides returning a value: torch's own answer, one record for each node.

A node is run once on fake tensors, in train and in eval mode, and the operations of torch that it calls are looked at
(`fxgrow.graph.observation`). A record says nothing of other nodes than those that its node reads: what was found for
one block holds for the next, and for the copy of the graph that has grown.
"""

from collections.abc import Hashable
from dataclasses import replace
from functools import cached_property

import torch.fx as fx

from fxgrow.errors import TraceError
from fxgrow.graph.declared import declared
from fxgrow.graph.descriptions import Descriptions
from fxgrow.graph.observation import Observer
from fxgrow.graph.operation import Operation
from fxgrow.graph.unseen import runs_foreign_code
from fxgrow.record.facts import kept

_MOST = 1 << 14
_RECORDS: dict[Hashable, Operation] = {}


def is_hashable(value: object) -> bool:
    """Say whether a value, with all that it holds, can be a key."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


class Operations:
    """The records of a graph's nodes, each found when it is first asked for."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        self._descriptions = Descriptions(graph_module)
        self._found: dict[fx.Node, Operation] = {}

    def __getitem__(self, node: fx.Node) -> Operation:
        if node not in self._found:
            self._found[node] = self._find(node)
        return self._found[node]

    def forget(self, node: fx.Node) -> None:
        """Let go of the record of a node that was edited."""
        self._found.pop(node, None)

    def read(self, node: fx.Node) -> list[fx.Node]:
        """Return the values whose numbers `node` looks at."""
        return [node.all_input_nodes[place] for place in self[node].reads]

    def written(self, node: fx.Node) -> list[fx.Node]:
        """Return the values that `node` may overwrite."""
        return [node.all_input_nodes[place] for place in self[node].writes]

    def shown(self, node: fx.Node) -> list[fx.Node]:
        """Return the values whose memory the value of `node` may show."""
        return [node.all_input_nodes[place] for place in self[node].shares]

    def has_effect(self, node: fx.Node) -> bool:
        """Say whether `node` may do anything but return a value."""
        found = self[node]
        return node.is_impure() or bool(found.writes or found.moves or found.draws or found.foreign or not found.known)

    def _find(self, node: fx.Node) -> Operation:
        description = self._descriptions.of(node) if node.op.startswith("call") else None
        if description is None or not is_hashable(description):  # a constant of the user's own may not be
            return declared(self.graph_module, node)
        if description not in _RECORDS:
            if len(_RECORDS) >= _MOST:
                _RECORDS.clear()
            _RECORDS[description] = self._run(node)
        return _RECORDS[description]

    def _run(self, node: fx.Node) -> Operation:
        try:
            found = self._observer.observe(node)
        except TraceError:
            return declared(self.graph_module, node)
        return replace(found, foreign=runs_foreign_code(self.graph_module, node))

    @cached_property
    def _observer(self) -> Observer:
        return Observer(self.graph_module)


@kept(notes=True)
def operations_of(graph_module: fx.GraphModule) -> Operations:
    """Return what the nodes of a graph do; without shapes on them, as far as torch declares it."""
    return Operations(graph_module)
