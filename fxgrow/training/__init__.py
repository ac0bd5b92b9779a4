"""Training goes on while the model grows: the optimizer, the compiled form, and a helper that holds them together."""

from fxgrow.training.optimizers import extend_optimizer as extend_optimizer
