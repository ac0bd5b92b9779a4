"""Planted depth: a task that is made so that the place of growth matters, as a positive control for scores."""
