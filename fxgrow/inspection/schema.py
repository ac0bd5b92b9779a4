"""The JSON of the views: a version, a name for each view, and their types as JSON Schema.

docs/inspection_schema.json publishes it.
"""

from typing import Any

import msgspec

from fxgrow.inspection.details import NodeView
from fxgrow.inspection.graph import GraphView
from fxgrow.inspection.history import DiffView, HistoryView
from fxgrow.inspection.parameters import ParameterList
from fxgrow.inspection.sites import SiteList
from fxgrow.inspection.summary import Summary
from fxgrow.inspection.views import ModelView, TreeView

#: Raised when a field goes away or changes its meaning; what is only added does not raise it.
SCHEMA_VERSION = 1

VIEWS: dict[str, type] = {
    "model": ModelView, "tree": TreeView, "table": SiteList, "graph": GraphView, "node": NodeView,
    "parameters": ParameterList, "history": HistoryView, "diff": DiffView, "summary": Summary,
}  # fmt: skip


def name_of(view: Any) -> str:
    """Return the name of a view in JSON.

    Raises:
        TypeError: If it is no view.
    """
    for name, kind in VIEWS.items():
        if type(view) is kind:
            return name
    raise TypeError(f"{type(view).__qualname__} is no view")


def json_schema() -> dict[str, Any]:
    """Return the schema of what `fxgrow.inspection.to_json` writes (JSON Schema, draft 2020-12)."""
    references, definitions = msgspec.json.schema_components(VIEWS.values(), ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A view of a model, as fxgrow inspect --json prints it",
        "oneOf": [_envelope(name, reference) for name, reference in zip(VIEWS, references, strict=True)],
        "$defs": definitions,
    }


def _envelope(name: str, reference: dict[str, Any]) -> dict[str, Any]:
    fields = {"version": {"const": SCHEMA_VERSION}, "view": {"const": name}, "data": reference}
    return {"type": "object", "required": list(fields), "properties": fields}
