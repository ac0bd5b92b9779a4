"""Training goes on while the model grows: `Grower`, its schedules, the one object that grows, and its compiled form."""

from fxgrow.optimizers import extend_optimizer as extend_optimizer
from fxgrow.training.compilation import CompiledBlocks as CompiledBlocks
from fxgrow.training.compilation import CompileWarning as CompileWarning
from fxgrow.training.compilation import compile as compile
from fxgrow.training.cycles import CosineCycles as CosineCycles
from fxgrow.training.events import GrowthReport as GrowthReport
from fxgrow.training.events import LowMemoryWarning as LowMemoryWarning
from fxgrow.training.grower import Grower as Grower
from fxgrow.training.growing import Growing as Growing
from fxgrow.training.parallel import renew as renew
from fxgrow.training.schedule import At as At
from fxgrow.training.schedule import Every as Every
from fxgrow.training.schedule import Plateau as Plateau
from fxgrow.training.schedule import Schedule as Schedule
from fxgrow.training.schedule import Significance as Significance
from fxgrow.training.schedule import growth_epochs as growth_epochs
from fxgrow.training.sharded_checkpoints import ShardedCheckpoints as ShardedCheckpoints
from fxgrow.training.sharding import Shard as Shard
