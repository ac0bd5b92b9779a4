"""What tests of passes are made of: sample models, random networks, random data, and checks of what a pass promises.

Hypothesis is imported with the strategies only; the sample models and the checks work without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxgrow.testing.behaviour import check_operations as check_operations
    from fxgrow.testing.checks import assert_same_function as assert_same_function
    from fxgrow.testing.checks import check_pass as check_pass
    from fxgrow.testing.draws import Draws as Draws
    from fxgrow.testing.networks import Layer as Layer
    from fxgrow.testing.networks import RandomNetwork as RandomNetwork
    from fxgrow.testing.networks import Recipe as Recipe
    from fxgrow.testing.rewriting import growths as growths
    from fxgrow.testing.rewriting import insertions as insertions
    from fxgrow.testing.rewriting import random_scores as random_scores
    from fxgrow.testing.rewriting import rewrite_at_random as rewrite_at_random
    from fxgrow.testing.rewriting import rewrites as rewrites
    from fxgrow.testing.samples import SampleModel as SampleModel
    from fxgrow.testing.samples import sample_models as sample_models
    from fxgrow.testing.strategies import graph_modules as graph_modules

_HOMES = {
    "Draws": "draws",
    "RandomNetwork": "networks",
    "Recipe": "networks",
    "SampleModel": "samples",
    "Layer": "networks",
    "assert_same_function": "checks",
    "check_operations": "behaviour",
    "check_pass": "checks",
    "graph_modules": "strategies",
    "growths": "rewriting",
    "insertions": "rewriting",
    "random_scores": "rewriting",
    "rewrite_at_random": "rewriting",
    "rewrites": "rewriting",
    "sample_models": "samples",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
