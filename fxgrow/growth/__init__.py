"""Growth: decide where to grow (`plan`), and do it (`grow`)."""

from fxgrow.growth.blocks import rank_blocks as rank_blocks
from fxgrow.growth.budget import Budget as Budget
from fxgrow.growth.grow import grow as grow
from fxgrow.growth.plan import Plan as Plan
from fxgrow.growth.plan import plan as plan
