"""Growing inside your own model: all of its parameters are there, and a part of it runs."""

from fxgrow.progressive.model import Progressive as Progressive
from fxgrow.progressive.stages import Stage as Stage
from fxgrow.progressive.waking import Advance as Advance
