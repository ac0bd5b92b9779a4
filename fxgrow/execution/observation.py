"""One run of a model, observed: its outputs, the gradients of its parameters and its buffers, with nothing moved."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxgrow.errors import first_line
from fxgrow.execution.calling import Inputs
from fxgrow.execution.fast_paths import without_fast_paths
from fxgrow.execution.preservation import preserved
from fxgrow.execution.structures import flatten, kinds_of
from fxgrow.primitives.unwrapping import DataParallel, bare, layers

_Named = Sequence[tuple[str, nn.Parameter]]
_Differentiation = Callable[[Sequence[Tensor], _Named, Sequence[Tensor]], Sequence[Tensor | None]]


@dataclass(frozen=True)
class Observation:
    """What one run of a model gave, by name."""

    outputs: dict[str, Tensor]
    kinds: dict[str, str]  #: the classes of the tuples, dicts and other structures in which the outputs lie
    gradients: dict[str, Tensor | None]  #: None for a parameter that no output depends on
    buffers: dict[str, Tensor]


class RunError(Exception):
    """A model failed while it was observed."""


class GradientError(RunError):
    """A model runs, and its gradients can be taken in no way."""


def observe(module: nn.Module, inputs: Inputs, *, mode: str, gradients: bool = True, seed: int = 0) -> Observation:
    """Run `module` once, in one mode, and return what it computed, leaving it as it was.

    Gradients are those of a random linear function of the outputs. They are taken by torch.autograd.grad, and by
    ``.backward()`` where the model does not serve that, as with reentrant checkpoints.

    Raises:
        RunError: If the model fails.
        GradientError: If gradients are asked for and neither way gives them.
    """
    if not gradients:
        return _run(module, inputs, mode, seed, None)
    try:
        return _run(module, inputs, mode, seed, _by_grad)
    except GradientError:
        return _run(module, inputs, mode, seed, _by_backward)


def _run(
    module: nn.Module, inputs: Inputs, mode: str, seed: int, differentiate: _Differentiation | None
) -> Observation:
    named = bare(module)
    if any(isinstance(layer, DataParallel) for layer in layers(module)):
        module = named  # DistributedDataParallel takes part in backward passes of training only
    recording = torch.no_grad() if differentiate is None else torch.enable_grad()
    with (
        preserved(module, seed=seed),
        _without_accumulation_hooks(module),
        torch.inference_mode(False),
        without_fast_paths(),
        recording,
    ):
        try:
            module.train(mode == "train")
            value = inputs.call(module)
        except Exception as error:  # the model's own code runs here, and it may raise anything
            raise RunError(first_line(error)) from error
        outputs = dict(flatten(value))
        found = _gradients(named, outputs, seed, differentiate) if differentiate is not None else {}
        buffers = {name: buffer.detach().clone() for name, buffer in named.named_buffers()} if mode == "train" else {}
        copies = {name: tensor.detach().clone() for name, tensor in outputs.items()}
        return Observation(copies, kinds_of(value), found, buffers)


def _gradients(
    module: nn.Module, outputs: Mapping[str, Tensor], seed: int, differentiate: _Differentiation
) -> dict[str, Tensor | None]:
    roots = [tensor for tensor in outputs.values() if tensor.requires_grad]
    named = [(name, p) for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad]
    if not roots or not named:
        return dict.fromkeys(name for name, _ in named)
    generator = torch.Generator().manual_seed(seed + 1)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in roots]
    try:
        values = differentiate(roots, named, weights)
    except Exception as error:  # code of the model may run in the backward pass too
        raise GradientError(first_line(error)) from error
    return {name: _plain(value) for (name, _), value in zip(named, values, strict=True)}


def _by_grad(roots: Sequence[Tensor], named: _Named, weights: Sequence[Tensor]) -> Sequence[Tensor | None]:
    return torch.autograd.grad(roots, [p for _, p in named], weights, allow_unused=True)


def _by_backward(roots: Sequence[Tensor], named: _Named, weights: Sequence[Tensor]) -> Sequence[Tensor | None]:
    for _, parameter in named:
        parameter.grad = None
    torch.autograd.backward(roots, weights)
    return [p.grad for _, p in named]


@contextmanager
def _without_accumulation_hooks(module: nn.Module) -> Iterator[None]:
    """Keep hooks from running that take a step when a gradient has arrived."""
    found = [parameter._post_accumulate_grad_hooks or {} for parameter in module.parameters()]
    kept = [dict(hooks) for hooks in found]
    try:
        for hooks in found:
            hooks.clear()
        yield
    finally:
        for hooks, own in zip(found, kept, strict=True):
            hooks.update(own)


def _plain(gradient: Tensor | None) -> Tensor | None:
    if gradient is None:
        return None
    return gradient.detach().to_dense() if gradient.layout != torch.strided else gradient.detach()
