"""``fxgrow demo``: a network that grows by half-steps, beside the same one from scratch."""

from fxgrow.demo.command import add_arguments as add_arguments
from fxgrow.demo.command import run as run
