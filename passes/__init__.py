"""Passes: rules that rewrite a graph, one a file, and the pipelines that chain them."""

if __name__ != "fxgrow.passes":
    raise ImportError(
        f"this folder is the package fxgrow.passes and cannot be imported as {__name__!r}; "
        "write `import fxgrow.passes` (after `pip install -e .` in a checkout)"
    )

from fxgrow.passes.base import Pass as Pass
from fxgrow.passes.base import PassResult as PassResult
from fxgrow.passes.pipeline import PassRun as PassRun
from fxgrow.passes.pipeline import Pipeline as Pipeline
from fxgrow.passes.pipeline import parse as parse
from fxgrow.passes.registry import available_passes as available_passes
from fxgrow.passes.registry import describe_pass as describe_pass
from fxgrow.passes.registry import find_pass as find_pass
from fxgrow.passes.registry import register_pass as register_pass
