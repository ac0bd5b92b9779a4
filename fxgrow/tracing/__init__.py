"""How a graph is captured from a model: the only room that knows."""

from fxgrow.tracing.entry import retrace as retrace
from fxgrow.tracing.entry import trace as trace
