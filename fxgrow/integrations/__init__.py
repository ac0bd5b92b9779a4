"""Growth in trainers that own the loop: a callback for Lightning, and one for the Trainer of transformers.

Each lies in a module of its own (`fxgrow.integrations.lightning`, `fxgrow.integrations.transformers`), since it needs
the library. `docs/trainers.md` has the lines for Accelerate and for timm's own loop, which need no callback.
"""
