"""Training goes on while the model grows: the compiled form, and a helper that holds it and the optimizer together."""

from fxgrow.optimizers import extend_optimizer as extend_optimizer
from fxgrow.training.compilation import CompiledBlocks as CompiledBlocks
from fxgrow.training.compilation import CompileWarning as CompileWarning
from fxgrow.training.compilation import compile as compile
from fxgrow.training.cycles import CosineCycles as CosineCycles
from fxgrow.training.grower import Grower as Grower
from fxgrow.training.grower import GrowthReport as GrowthReport
