"""Optimizers whose parameters change between two steps: they take new ones in, exchange and drop old ones."""

from fxgrow.optimizers.named_state import load_state_by_name as load_state_by_name
from fxgrow.optimizers.named_state import options_of as options_of
from fxgrow.optimizers.named_state import state_by_name as state_by_name
from fxgrow.optimizers.succession import carry_over as carry_over
from fxgrow.optimizers.succession import extend_optimizer as extend_optimizer
from fxgrow.optimizers.transaction import Optimizers as Optimizers
from fxgrow.optimizers.transaction import as_given as as_given
from fxgrow.optimizers.transaction import listed as listed
from fxgrow.optimizers.transaction import stepping as stepping
from fxgrow.optimizers.transaction import unchanged_on_failure as unchanged_on_failure
