"""When the scores of a model were measured, and what they were: before each event, and at the end."""

from dataclasses import dataclass

from fxgrow.files import Table
from fxgrow.record.evidence import SiteEvidence, site_evidence
from fxgrow.record.record import GrowthEvent


@dataclass(frozen=True)
class Moment:
    """One analysis of a model."""

    label: str  #: as in ``"event 1 (epoch 10)"``; ``"now"`` for the scores that the nodes carry
    sites: tuple[SiteEvidence, ...]


def moments(table: Table) -> list[Moment]:
    """Return what was measured before each growth event, and now, in order.

    An event whose neurons somebody named has none, and the scores on the nodes count only where they are of the graph
    as it is. Sites inside pseudo-layers are left out.
    """
    found = [Moment(event_label(number, event), event.scores) for number, event in enumerate(table.record.history, 1)]
    on_nodes = {row.site.path: row.annotation.get("scores") for row in table.nodes if row.site}
    fresh = {path: scores for path, scores in on_nodes.items() if scores and scores["digest"] == table.digest}
    own = set(own_sites(table))
    all_moments = [*found, Moment("now", site_evidence(fresh))]
    kept = (Moment(at.label, tuple(site for site in at.sites if site.site in own)) for at in all_moments)
    return [moment for moment in kept if moment.sites]


def event_label(number: int, event: GrowthEvent) -> str:
    """Name a growth event by its number, and by its epoch or step where the training loop told."""
    unit = next((unit for unit in ("epoch", "step") if unit in event.context), None)
    return f"event {number}" + (f" ({unit} {event.context[unit]})" if unit else "")


def own_sites(table: Table) -> list[str]:
    """Return the sites of the model itself, in graph order: none that lies inside a pseudo-layer."""
    paths = dict.fromkeys(row.site.path for row in table.nodes if row.site and row.provenance.part is None)
    return list(paths)
