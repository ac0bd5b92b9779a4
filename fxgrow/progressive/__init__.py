"""Growing inside your own model: all of its parameters are there, and a part of it runs."""

from fxgrow.progressive.history import with_history as with_history
from fxgrow.progressive.model import Advance as Advance
from fxgrow.progressive.model import Progressive as Progressive
from fxgrow.progressive.stages import Stage as Stage
