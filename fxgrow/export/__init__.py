"""A model in the formats of other tools."""

from fxgrow.export.source.writing import export_source as export_source
