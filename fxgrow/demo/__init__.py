"""``fxgrow demo``: the whole way from a narrow vision transformer to a grown one, on digits."""

from fxgrow.demo.command import add_arguments as add_arguments
from fxgrow.demo.command import run as run
