"""Whether two models compute the same function: outputs, gradients of shared parameters, and BatchNorm statistics."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.errors import VerificationError, first_line
from fxgrow.execution.calling import Inputs
from fxgrow.execution.observation import GradientError, Observation, RunError, observe
from fxgrow.execution.structures import batch_size_of, resized
from fxgrow.primitives.arguments import checks_arguments
from fxgrow.primitives.unwrapping import bare

#: largest difference that counts as equal, relative to the largest value
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@dataclass(frozen=True)
class Verification:
    """What was compared, and the largest differences that were found."""

    modes: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    outputs: int  #: tensors compared, over all runs
    gradients: int
    buffers: int
    largest_absolute: float
    largest_relative: float  #: difference over the largest value of the tensor
    worst: str  #: the tensor with the largest relative difference


@checks_arguments(VerificationError)
def verify(
    before: nn.Module,
    after: nn.Module,
    example_inputs: Any = None,
    *,
    modes: Sequence[str] = ("eval", "train"),
    batch_sizes: Sequence[int] | None = None,
    gradients: bool = True,
    tolerance: float | None = None,
    seed: int = 0,
) -> Verification:
    """Check that `after` computes what `before` computes, on the same inputs and with the same random stream.

    Compared are all outputs, the gradients of the parameters that both have under the same name (of a random linear
    function of the outputs), and in train mode the buffers. Neither model is changed: mode, buffers, ``.grad`` and the
    global random state are put back.

    Args:
        before: The reference. What is compiled runs as it is; DistributedDataParallel is looked through.
        after: The model that should equal it; parameters and buffers that only it has, or that have
            another shape in it, are not compared.
        example_inputs: A tensor, a tuple, or a dict of keyword inputs; random ones of the traced shapes if left out.
        modes: ``"eval"``, ``"train"`` or both.
        batch_sizes: Sizes of the leading dimension; by default the inputs' own and one more. A size that `before`
            itself does not accept is left out, and where it accepts none, the inputs' own is taken.
        gradients: Whether gradients are compared.
        tolerance: Largest difference relative to the largest value; by default 1e-5 in float32, 1e-10 in float64.
        seed: Seed of the inputs and of the random stream in train mode.

    Returns:
        What was compared and how large the differences were.

    Raises:
        VerificationError: Where they differ; it names the output, the parameter or the buffer.
    """
    inputs = _inputs(before, after, example_inputs, seed)
    own = batch_size_of(inputs)
    sizes = list(batch_sizes) if batch_sizes is not None and own else [own, own + 1] if own else [0]
    ledger = _Ledger(tolerance)
    refused = ""
    for size in dict.fromkeys([*sizes, own]):
        if size == own and own not in sizes and ledger.modes:
            continue  # only when the reference accepts no other size
        sized = resized(inputs, size) if size else inputs
        for mode in modes:
            refused = _compare_one_run(before, after, sized, mode, size, gradients, seed, ledger) or refused
    if not ledger.modes:
        raise VerificationError(refused, where="the reference", fix="give inputs that it takes")
    return ledger.summary()


def _compare_one_run(
    before: nn.Module,
    after: nn.Module,
    inputs: Inputs,
    mode: str,
    size: int,
    gradients: bool,
    seed: int,
    ledger: "_Ledger",
) -> str:
    """Compare both models on one input in one mode; return why the reference does not run, if it does not.

    All gradients of both are in memory at once, and they go when this returns.
    """
    try:
        expected = observe(before, inputs, mode=mode, gradients=gradients, seed=seed)
    except GradientError as error:
        what = f"its gradients cannot be taken, neither by autograd.grad nor by .backward(): {first_line(error)}"
        fix = "mend its backward pass; gradients=False compares outputs alone, for a model that is never trained"
        raise VerificationError(what, where=f"the reference in {mode} mode", fix=fix) from error
    except RunError as error:
        return f"it does not run in {mode} mode: {first_line(error)}"
    try:
        found = observe(after, inputs, mode=mode, gradients=gradients, seed=seed)
    except RunError as error:
        what = f"it fails where the reference runs: {first_line(error)}"
        fix = "call it on such inputs by itself, and see where it stops"
        raise VerificationError(what, where=f"{mode} mode, batch {size}", fix=fix) from error
    ledger.compare(expected, found, mode, size)
    return ""


class _Ledger:
    """Compares observations and remembers the largest difference."""

    def __init__(self, tolerance: float | None) -> None:
        self.tolerance = tolerance
        self.modes: list[str] = []
        self.sizes: list[int] = []
        self.counts = {"output": 0, "gradient": 0, "buffer": 0}
        self.absolute, self.relative, self.worst = 0.0, 0.0, ""

    def compare(self, expected: Observation, found: Observation, mode: str, size: int) -> None:
        run = f"{mode} mode, batch {size}" if size else f"{mode} mode"
        self.modes.append(mode)
        self.sizes.append(size)
        if list(expected.outputs) != list(found.outputs):
            what = f"the outputs are {', '.join(found.outputs)} and should be {', '.join(expected.outputs)} ({run})"
            fix = "let both return the same structure"
            raise VerificationError(what, where="the structure of the output", fix=fix)
        for name, kind in expected.kinds.items():
            if found.kinds.get(name) != kind:
                what = f"it is a {found.kinds.get(name)} and should be a {kind} ({run})"
                raise VerificationError(what, where=name, fix="let both return the same structure")
        self._compare_all("output", expected.outputs, found.outputs, run, floor=1e-2)
        self._compare_all("gradient", *_comparable(expected.gradients, found.gradients, run), run, floor=0.0)
        self._compare_all("buffer", expected.buffers, found.buffers, run, floor=1e-2)

    def _compare_all(
        self, kind: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], run: str, floor: float
    ) -> None:
        largest = max((_largest(value) for value in expected.values()), default=0.0)
        for name, value in expected.items():
            resized = name in found and kind != "output" and found[name].shape != value.shape  # as by `widen`
            if name in found and not resized:
                self.counts[kind] += 1
                self._compare_tensors(kind, name, value, found[name], run, max(floor, 0.1 * largest))

    def _compare_tensors(self, kind: str, name: str, expected: Tensor, found: Tensor, run: str, floor: float) -> None:
        where = name if kind == "output" else f"{kind} of {name}" if kind == "gradient" else f"buffer {name}"
        if expected.shape != found.shape or expected.dtype != found.dtype:
            what = f"it is {tuple(found.shape)} {found.dtype} and should be {tuple(expected.shape)} {expected.dtype}"
            raise VerificationError(f"{what} ({run})", where=where, fix="bring both to one shape and dtype")
        difference, scale = _difference(expected, found), max(_largest(expected), floor)
        relative = difference / scale if scale else difference
        if relative > self.relative or not self.worst:
            self.relative, self.worst = relative, f"{where} ({run})"
        self.absolute = max(self.absolute, difference)
        allowed = self.tolerance if self.tolerance is not None else TOLERANCES.get(expected.dtype, 0.0)
        if not relative <= allowed:
            what = f"it differs by {difference:.3g} where {allowed * scale:.3g} is allowed ({run})"
            raise VerificationError(what, where=where, fix="see what changed there, or allow more by tolerance=")

    def summary(self) -> Verification:
        return Verification(
            tuple(dict.fromkeys(self.modes)),
            tuple(dict.fromkeys(self.sizes)),
            self.counts["output"],
            self.counts["gradient"],
            self.counts["buffer"],
            self.absolute,
            self.relative,
            self.worst,
        )


def _comparable(
    expected: Mapping[str, Tensor | None], found: Mapping[str, Tensor | None], run: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the gradients that can be compared; where only the reference has none, it counts as zero.

    Raises:
        VerificationError: If a gradient is missing that the reference has, be it zero at the moment.
    """
    for name, value in expected.items():
        if value is not None and found.get(name, value) is None:
            what = f"there is none, where the reference has one ({run})"
            fix = "see what detaches it, or switches gradients off"
            raise VerificationError(what, where=f"gradient of {name}", fix=fix)
    present = {name: value for name, value in found.items() if value is not None}
    zeros = {name: torch.zeros_like(value) for name, value in present.items() if name in expected}
    return {**zeros, **{name: value for name, value in expected.items() if value is not None}}, present


def _largest(value: Tensor) -> float:
    """Return the largest finite absolute value; zero for an empty tensor."""
    if not value.numel():
        return 0.0
    if value.dtype == torch.bool:
        return 1.0
    largest = float(value.abs().max())
    if not math.isfinite(largest):  # rare, and a masked copy costs more than all the rest
        finite = value[torch.isfinite(value)]
        largest = float(finite.abs().max()) if finite.numel() else 0.0
    return largest


def _difference(expected: Tensor, found: Tensor) -> float:
    """Return the largest absolute difference; infinity where one is finite and the other is not."""
    if torch.equal(expected, found):  # the usual case, and by far the cheapest
        return 0.0
    if not expected.is_floating_point() and not expected.is_complex():
        return float((expected != found).any()) if expected.dtype == torch.bool else _largest(expected - found)
    if not torch.equal(expected.isfinite(), found.isfinite()) or not torch.equal(expected.isnan(), found.isnan()):
        return float("inf")
    return _largest((expected.double() - found.double()).nan_to_num(0.0))


def _inputs(before: nn.Module, after: nn.Module, example_inputs: Any, seed: int) -> Inputs:
    if example_inputs is not None:
        return Inputs.of(bare(before), example_inputs)
    traced = next((module for module in map(bare, (before, after)) if isinstance(module, fx.GraphModule)), None)
    if traced is None:
        raise VerificationError("neither model is traced", where="example_inputs", fix="give example inputs")
    return Inputs.drawn(traced, seed)
