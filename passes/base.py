"""What a pass is: a frozen dataclass whose fields are its options, with a rule that rewrites a graph.

The framework, not the pass, copies the graph, writes shapes and provenance on created nodes, keeps the edit log and
checks the invariants: a pass author writes `rewrite` and nothing else.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch.fx as fx

from fxgrow.errors import FxgrowError, PassError, first_line
from fxgrow.execution.shapes import complete_shapes, has_shape
from fxgrow.graph.sharing import share
from fxgrow.passes.invariants import check_shapes, check_structure
from fxgrow.passes.options import options_of, spell_value
from fxgrow.record.annotations import annotate, annotation
from fxgrow.record.digest import digest
from fxgrow.record.record import record_of, update_record

_REPORT = "report this to the author of the pass"


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
    #: whether the rewritten graph has every parameter and buffer that it had, under its name
    keeps_parameters: ClassVar[bool] = True
    #: whether running it once more changes nothing
    idempotent: ClassVar[bool] = True

    @abstractmethod
    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Rewrite `graph_module`, which is a private copy, in place.

        Raises:
            FxgrowError: If the graph does not fit the options; the caller's graph is unharmed.
        """

    def __call__(self, graph_module: fx.GraphModule, *, check: bool = True) -> PassResult:
        """Return the rewritten copy of `graph_module`, which shares its parameters, and whether it differs.

        A rewrite that changed the structure goes into the edit log, from which a saved file rebuilds its graph.

        Args:
            graph_module: The graph to rewrite; it stays as it was.
            check: Whether to check the invariants of `fxgrow.passes.invariants` on the result.

        Raises:
            PassError: If the pass crashes, or if the rewritten graph breaks an invariant.
            FxgrowError: If the pass refuses the graph.
        """
        before = digest(graph_module)
        result = share(graph_module)
        known = set(result.graph.nodes)
        self._rewrite(result)
        self._finish(graph_module, result, check)
        modified = digest(result) != before
        self._sign(result, known)
        if modified:
            record = record_of(result)
            update_record(
                result, base_digest=record.base_digest or before, edits=(*record.edits, self.spell(defaults=True))
            )
        result.recompile()
        return PassResult(result, modified)

    def _rewrite(self, graph_module: fx.GraphModule) -> None:
        try:
            self.rewrite(graph_module)
        except FxgrowError:
            raise
        except Exception as error:  # a pass is somebody's code: whatever it raises, say which pass it was
            raise PassError(
                f"it crashed with {type(error).__name__}: {first_line(error)}", where=self._short, fix=_REPORT
            ) from error

    @property
    def _short(self) -> str:
        """The pass as text, cut to what fits on a line of an error; a plan names thousands of rows."""
        text = str(self)
        return text if len(text) <= 120 else f"{text[:100]}…"

    def _finish(self, before: fx.GraphModule, after: fx.GraphModule, check: bool) -> None:
        """Check the result, and find the shapes of the created nodes where those of the inputs are known."""
        try:
            if check:
                check_structure(before, after)
            if all(has_shape(node) for node in after.graph.find_nodes(op="placeholder")):
                complete_shapes(after)
            if check:
                check_shapes(before, after)
        except FxgrowError as error:
            raise PassError(error.what, where=f"{self._short}: {error.where}", fix=_REPORT) from error

    def _sign(self, graph_module: fx.GraphModule, known: set[fx.Node]) -> None:
        """Write on every created node which pass and which edit made it."""
        edit = len(record_of(graph_module).edits)
        for node in graph_module.graph.nodes:
            if node not in known:
                provenance = annotation(node).get("provenance", {})
                annotate(node, provenance={**provenance, "pass_name": self.name, "edit": edit})

    def spell(self, *, defaults: bool = False) -> str:
        """Spell the pass as `parse` reads it.

        Args:
            defaults: Whether to spell options that have their default value too, as the edit log does: a file must not
                change its meaning with the default.
        """
        options = [
            f"{option.name}={spell_value(getattr(self, option.name))}"
            for option in options_of(type(self)).values()
            if defaults or option.required or getattr(self, option.name) != option.default
        ]
        return f"{self.name}{{{' '.join(options)}}}" if options else self.name

    def __str__(self) -> str:
        return self.spell()
