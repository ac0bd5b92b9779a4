"""What a pass is: a frozen dataclass whose fields are its options, with a rule that rewrites a graph.

The framework, not the pass, copies the graph, keeps the provenance of created nodes, and checks the invariants: a pass
author writes `rewrite` and nothing else.
"""

import dataclasses
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch.fx as fx

from fxgrow.errors import FxgrowError, PassError
from fxgrow.graph.annotations import annotate, annotation
from fxgrow.graph.digest import digest
from fxgrow.graph.record import record_of, update_record
from fxgrow.graph.sharing import share
from fxgrow.passes.invariants import check_invariants


@dataclass(frozen=True)
class PassResult:
    """What a pass returns: the rewritten copy, and whether its structure differs from what went in."""

    graph_module: fx.GraphModule
    modified: bool


@dataclass(frozen=True)
class Pass(ABC):
    """A rule that rewrites a graph. Fields are options; `str` of a pass is the text that `parse` reads back."""

    #: the name in pipelines: the class name in kebab case
    name: ClassVar[str]
    #: whether the rewritten graph computes the same function
    preserves_function: ClassVar[bool] = True
    #: whether the pass belongs in the edit log, to be replayed when a file is loaded
    logged: ClassVar[bool] = False

    @abstractmethod
    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Rewrite `graph_module`, which is a private copy, in place.

        Raises:
            FxgrowError: If the graph does not fit the options; the caller's graph is unharmed.
        """

    def __call__(self, graph_module: fx.GraphModule) -> PassResult:
        """Return the rewritten copy of `graph_module`, which shares its parameters, and whether it differs.

        Raises:
            PassError: If the rewritten graph breaks an invariant (`fxgrow.passes.invariants`).
            FxgrowError: If the pass refuses the graph.
        """
        before = digest(graph_module)
        result = share(graph_module)
        known = set(result.graph.nodes)
        self.rewrite(result)
        if self.logged:
            record = record_of(result)
            update_record(result, base_digest=record.base_digest or before, edits=(*record.edits, str(self)))
        self._sign(result, known)
        result.graph.lint()
        result.recompile()
        try:
            check_invariants(graph_module, result)
        except FxgrowError as error:
            raise PassError(error.what, where=f"{self}: {error.where}", fix="report this pass to its author") from error
        return PassResult(result, modified=digest(result) != before)

    def _sign(self, graph_module: fx.GraphModule, known: set[fx.Node]) -> None:
        """Write on every created node which pass and which edit made it."""
        edit = len(record_of(graph_module).edits) - 1 if self.logged else None
        for node in graph_module.graph.nodes:
            if node not in known:
                entries = {**annotation(node).get("provenance", {}), "pass_name": self.name}
                annotate(node, provenance=entries if edit is None else {**entries, "edit": edit})

    def __str__(self) -> str:
        """Spell the pass with the options that differ from their defaults."""
        options = [
            f"{field.name}={_spell(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}{{{' '.join(options)}}}" if options else self.name


def _spell(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, separators=(",", ":"))
