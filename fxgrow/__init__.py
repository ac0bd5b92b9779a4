"""fxgrow grows neural networks while they train."""
