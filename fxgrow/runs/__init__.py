"""Runs as data: one file of settings says what is trained, on what, how long, and how it grows."""

from fxgrow.runs.reading import override as override
from fxgrow.runs.reading import read_recipe as read_recipe
from fxgrow.runs.reading import recipe_names as recipe_names
from fxgrow.runs.settings import Settings as Settings
