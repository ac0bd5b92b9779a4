"""The uniform model beside the grown one: a vision transformer whose MLPs are all equally wide."""

from dataclasses import replace

from fxgrow.primitives.modules import parameter_count
from fxgrow.runs.making import build_model
from fxgrow.runs.settings import Settings


def uniform_settings(settings: Settings, parameters: int) -> Settings:
    """Return the settings of the model of the same family whose width comes closest to a number of parameters."""
    arguments = settings.model.arguments
    embed_dim, depth = arguments["embed_dim"], arguments["depth"]
    per_unit = depth * (2 * embed_dim + 1)  # a row of fc1, its bias, and a column of fc2, in every block
    missing = parameters - parameter_count(build_model(settings))
    width = int(arguments["mlp_ratio"] * embed_dim) + round(missing / per_unit)
    # timm takes int(embed_dim * mlp_ratio); the half keeps rounding from costing a unit
    changed = {**arguments, "mlp_ratio": (width + 0.5) / embed_dim}
    return replace(settings, model=replace(settings.model, arguments=changed))
