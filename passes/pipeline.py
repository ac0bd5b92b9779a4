"""Pipelines: passes in order, written as text that reads back to the same passes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch.fx as fx
from torch import nn

from fxgrow.errors import FxgrowError, PassError, PipelineError, did_you_mean
from fxgrow.optimizers import Optimizers, unchanged_on_failure
from fxgrow.passes.base import Pass, PassResult
from fxgrow.passes.grammar import PassText, read_pipeline
from fxgrow.passes.options import Option, options_of, read_value, spell_value
from fxgrow.passes.registry import find_pass
from fxgrow.primitives.unwrapping import unwrap

#: how a pipeline checks each pass: not at all; the invariants of the graph; and the function and its gradients too
Verify = Literal["none", "structure", "full"]


@dataclass(frozen=True)
class PassRun:
    """One pass of a running pipeline, done: what `after_each` is called with."""

    applied: Pass
    before: fx.GraphModule
    result: PassResult
    seconds: float  #: of the rewrite and the check of its structure, without that of its function


@dataclass(frozen=True)
class Pipeline:
    """Passes that run one after the other. Called like a pass; `str` of it is the text that `parse` reads back."""

    passes: tuple[Pass, ...]

    def __call__(
        self,
        graph_module: nn.Module,
        optimizer: Optimizers | None = None,
        *,
        verify: Verify = "structure",
        after_each: Callable[[PassRun], None] | None = None,
    ) -> PassResult:
        """Return what the passes make of `graph_module`, which stays as it was.

        Args:
            graph_module: The graph to rewrite.
            optimizer: The optimizer that trains it, or several; it is as it was where any pass fails.
            verify: ``"none"``, ``"structure"`` (the invariants of `fxgrow.passes.invariants`) or ``"full"``: besides,
                after every pass that claims to preserve the function, outputs and gradients on random inputs, drawn
                from the shapes on the placeholders, are compared by `fxgrow.verify`.
            after_each: Called after each pass, to time or to print.

        Raises:
            PipelineError: If a pass fails; the error carries the graph before it and the pass alone.
        """
        if verify not in get_args(Verify):
            raise PassError(
                "there is no such check", where=f"verify={verify!r}", fix="use 'none', 'structure' or 'full'"
            )
        current, modified = unwrap(graph_module), False
        with unchanged_on_failure(optimizer):
            for number, applied in enumerate(self.passes, start=1):
                try:
                    step = _run(applied, current, optimizer, verify)
                except FxgrowError as error:
                    where = f"pass {number} of {len(self.passes)}" + (f", {error.where}" if error.where else "")
                    raise PipelineError(
                        error.what, where=where, fix=error.fix, failed=str(applied), before=current
                    ) from error
                current, modified = step.result.graph_module, modified or step.result.modified
                if after_each is not None:
                    after_each(step)
        return PassResult(current, modified)

    def __str__(self) -> str:
        """Spell the passes, comma-separated, with the options that differ from their defaults."""
        return ",".join(str(applied) for applied in self.passes)


def _run(applied: Pass, before: fx.GraphModule, optimizer: Optimizers | None, verify: Verify) -> PassRun:
    start = time.perf_counter()
    result = applied(before, optimizer, check=verify != "none")
    seconds = time.perf_counter() - start
    if verify == "full" and applied.preserves_function:
        from fxgrow.verification import verify as verify_function

        verify_function(before, result.graph_module)
    return PassRun(applied, before, result, seconds)


def parse(text: str) -> Pipeline:
    """Read a pipeline: passes separated by commas, options in braces, values as JSON or as bare words.

    Example:
        >>> parse("eliminate-dead-code")
        Pipeline(passes=(EliminateDeadCode(),))
        >>> str(parse("insert-pseudo-layer{site=fc1 rows=[0,3] operator=serial}"))
        'insert-pseudo-layer{site="fc1" rows=[0,3] operator="serial"}'

    Raises:
        PassError: If the text is malformed, a pass or an option is unknown or missing, or a value has the wrong type.
    """
    return Pipeline(tuple(_build(written) for written in read_pipeline(text)))


def _build(written: PassText) -> Pass:
    found = find_pass(written.name)
    options = options_of(found)
    for name in written.options:
        if name not in options:
            raise _unknown_option(written.name, name, options)
    missing = [option for option in options.values() if option.required and option.name not in written.options]
    if missing:
        fix = " ".join(f"{option.name}=<{option.type_name}>" for option in missing)
        raise PassError(f"it needs the option {missing[0].name}", where=written.name, fix=f"add {fix}")
    return found(**{name: _read(written.name, options[name], value) for name, value in written.options.items()})


def _read(pass_name: str, option: Option, value: object) -> object:
    try:
        return read_value(value, option.kind)
    except TypeError:
        raise PassError(
            f"the option {option.name} wants {option.type_name}, not {spell_value(value)}",
            where=pass_name,
            fix=f"write {option.name}=<{option.type_name}>" + (" in quotes" if option.kind is str else ""),
        ) from None


def _unknown_option(pass_name: str, name: str, options: dict[str, Option]) -> PassError:
    hint = did_you_mean(name, options)
    known = ", ".join(f"{option.name}: {option.type_name}" for option in options.values())
    return PassError(f"it has no option {name!r}", where=pass_name, fix=f"{hint}its options: {known or 'none'}")
