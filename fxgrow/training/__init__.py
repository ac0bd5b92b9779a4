"""Training goes on while the model grows: the optimizer, the compiled form, and a helper that holds them together.

Names are resolved on first use: `fxgrow.growth` needs the optimizers of this package, and the `Grower` needs
`fxgrow.growth`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxgrow.training.compilation import CompiledBlocks as CompiledBlocks
    from fxgrow.training.compilation import CompileWarning as CompileWarning
    from fxgrow.training.compilation import compile as compile
    from fxgrow.training.grower import Grower as Grower
    from fxgrow.training.grower import GrowthReport as GrowthReport
    from fxgrow.training.optimizers import extend_optimizer as extend_optimizer

_HOMES = {
    "CompileWarning": "fxgrow.training.compilation",
    "CompiledBlocks": "fxgrow.training.compilation",
    "Grower": "fxgrow.training.grower",
    "GrowthReport": "fxgrow.training.grower",
    "compile": "fxgrow.training.compilation",
    "extend_optimizer": "fxgrow.training.optimizers",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fxgrow.training' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
