"""Pictures of a model that grew, as matplotlib axes: its depth map, its scores, its history."""

from fxgrow.plot.depth import depth_map as depth_map
from fxgrow.plot.evidence import scores as scores
from fxgrow.plot.training import history as history
