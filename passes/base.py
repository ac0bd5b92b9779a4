"""What a pass is: a frozen dataclass whose fields are its options, with a rule that rewrites a graph.

The framework, not the pass, copies the graph, writes shapes and provenance on created nodes, keeps the edit log and the
growth history, checks the invariants and carries the optimizer over: a pass author writes `rewrite`, and overrides
`lineages` and `growths` where their defaults do not fit.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch.fx as fx
from torch import nn

from fxgrow.errors import FxgrowError, PassError, first_line
from fxgrow.execution.shapes import complete_shapes
from fxgrow.graph.hosts import find_hosts
from fxgrow.graph.sharing import share
from fxgrow.optimizers import Optimizers, carry_over
from fxgrow.optimizers.kinship import added_parameters, kin
from fxgrow.passes.insertion import Insertion
from fxgrow.passes.invariants import check_shapes, check_structure
from fxgrow.passes.options import misfit, options_of, spell_value
from fxgrow.primitives.memory_format import follow_memory_format
from fxgrow.primitives.modules import parameter_count, resolves
from fxgrow.primitives.unwrapping import unwrap
from fxgrow.record.digest import digest
from fxgrow.record.lineage import Lineage
from fxgrow.record.provenance import Provenance, provenance_of, write_provenance
from fxgrow.record.record import Growth, GrowthEvent, record_of, update_record

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

    def lineages(self, before: fx.GraphModule, after: fx.GraphModule) -> Mapping[str, Lineage]:
        """Return where new parameters come from, and which old ones go on with other moments: what an optimizer needs.

        By default a new parameter starts without moments, in the group of the site that it hangs on: a matrix in that
        of the site's weight, a vector in that of its bias (`fxgrow.optimizers.kinship.kin`). A pass overrides this
        where parameters replace others, descend from others than their site's, or where old ones change their meaning.

        Args:
            before: The graph that went in.
            after: The rewritten copy.
        """
        return kin(after, added_parameters(before, after))

    def growths(self, before: fx.GraphModule, after: fx.GraphModule) -> tuple[Growth, ...]:
        """Return what grew where: the lines of one event in the growth history; none for a pass that adds nothing.

        By default each site on which parameters were added has grown by them, unless others went in their place.

        Args:
            before: The graph that went in.
            after: The rewritten copy.
        """
        return _growths_by_site(self.name, before, after)

    def inverse(self, graph_module: fx.GraphModule, edit: int) -> tuple[Insertion, ...] | None:
        """Return what `undo` has to take out of a graph for an edit of this pass.

        By default the edit changed what was there, and cannot be undone. A pass that inserts something between values
        that stay, and marks it (`fxgrow.record.provenance`), returns `fxgrow.passes.insertion.inserted_by`; one that
        changes only what others inserted returns nothing, an empty tuple.

        Args:
            graph_module: The graph, with all edits that came after.
            edit: The place of this edit in the graph's log.
        """
        return None

    def log(self, before: fx.GraphModule, after: fx.GraphModule) -> tuple[str, ...]:
        """Return the edit log of the rewritten graph, from which a saved file rebuilds it."""
        return (*record_of(before).edits, self.spell(defaults=True))

    def __call__(
        self, graph_module: nn.Module, optimizer: Optimizers | None = None, *, check: bool = True
    ) -> PassResult:
        """Return a rewritten copy of `graph_module`, which shares its parameters, and whether it differs.

        The copy is a bare GraphModule. A rewrite that changed the structure goes into the edit log, from which a saved
        file rebuilds its graph; what grew goes into the history. The optimizer goes on with the copy. Nothing has
        changed where anything is refused.

        Args:
            graph_module: The traced model to rewrite, also compiled or wrapped; it stays as it was.
            optimizer: The optimizer that trains it, or several that share its parameters.
            check: Whether to check the invariants of `fxgrow.passes.invariants` on the result.

        Raises:
            PassError: If the pass crashes, or if the rewritten graph breaks an invariant.
            PlanError: If the optimizer cannot go on with what the pass made.
            TraceError: If the model is not traced.
            FxgrowError: If the pass refuses the graph.
        """
        before, wrong = unwrap(graph_module), misfit(self)
        if wrong is not None:
            raise PassError(wrong, where=self.name, fix="choose one of them")
        result = share(before)
        known = set(result.graph.nodes)
        with self._crashes_reported():
            self.rewrite(result)
        follow_memory_format(before, result)
        self._finish(before, result, check)
        self._sign(result, known)
        modified = digest(result) != digest(before)
        with self._crashes_reported():
            if modified:
                self._remember(before, result)
            lineages = self.lineages(before, result) if optimizer is not None else {}
        result.recompile()
        if optimizer is not None:
            carry_over(optimizer, before, result, lineages)
        return PassResult(result, modified)

    def _remember(self, before: fx.GraphModule, after: fx.GraphModule) -> None:
        """Write the edit, what grew and what is new into the record of the rewritten graph."""
        record, edits, growths = record_of(after), self.log(before, after), self.growths(before, after)
        added = added_parameters(before, after)
        left = tuple(name for name in record.new_parameters if resolves(after, name))
        update_record(
            after,
            edits=edits,
            base_digest=(record.base_digest or digest(before)) if edits else "",
            new_parameters=added or left,
        )
        if growths:
            sizes = parameter_count(before), parameter_count(after)
            event = GrowthEvent(*sizes, growths, first_edit=len(record.edits))
            update_record(after, history=(*record.history, event))

    @contextmanager
    def _crashes_reported(self) -> Iterator[None]:
        """Say of whatever a pass raises, which is somebody's code, which pass it was."""
        try:
            yield
        except FxgrowError:
            raise
        except Exception as error:
            what = f"it crashed with {type(error).__name__}: {first_line(error)}"
            raise PassError(what, where=self._short, fix=_REPORT) from error

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
                made = provenance_of(node) or Provenance()
                write_provenance(node, replace(made, pass_name=self.name, edit=edit))

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


def _growths_by_site(kind: str, before: fx.GraphModule, after: fx.GraphModule) -> tuple[Growth, ...]:
    """Return a line of the growth history for each site on which more is trained than before."""
    if parameter_count(after) <= parameter_count(before):
        return ()
    added = {name: after.get_parameter(name) for name in added_parameters(before, after)}
    trained = {name: parameter.numel() for name, parameter in added.items() if parameter.requires_grad}
    grown: dict[str, int] = defaultdict(int)
    for name, site in find_hosts(after, tuple(trained)).items():
        grown[site.path] += trained[name]
    return tuple(Growth(kind, site, parameters) for site, parameters in grown.items())
