"""Build a candidate: its model, random inputs, and the loss that its growth is measured by."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.execution.structures import flatten
from model_census.candidates import Candidate
from model_census.inputs import Input

SEED = 0


@dataclass(frozen=True)
class Built:
    """A model with inputs that it takes."""

    model: nn.Module
    inputs: Any  #: a tensor, or a dict by keyword
    origin: fxgrow.Origin | None

    def call(self, module: nn.Module) -> Any:
        """Run `module` on the inputs."""
        return module(**self.inputs) if isinstance(self.inputs, Mapping) else module(self.inputs)


def build(candidate: Candidate) -> Built:
    """Build a candidate with random weights, the same ones each time."""
    torch.manual_seed(SEED)
    by_path = ":" in candidate.model
    model = (_imported if by_path else _BUILDERS[candidate.suite])(candidate)
    wake(model)
    inputs = {name: _random(item) for name, item in candidate.inputs.items()}
    origin = None
    if candidate.suite == "timm" and not by_path:
        origin = fxgrow.Origin("timm", candidate.model, dict(candidate.arguments))
    return Built(model, inputs.get("", inputs), origin)


def loss_of(output: Any, target: Tensor) -> Tensor:
    """Return a mean loss of any model's output: the cross-entropy along the last dimension of each of its tensors.

    Args:
        output: A tensor, or tensors in tuples, mappings or dataclasses.
        target: Whole numbers from which the classes are drawn; one for each image.
    """
    tensors = [tensor for _, tensor in flatten(output) if tensor.is_floating_point() and tensor.dim() > 1]
    losses = []
    for tensor in tensors:
        classes = tensor.shape[-1]
        rows = tensor.reshape(target.shape[0], -1, classes)
        wanted = (target[:, None] + torch.arange(rows.shape[1])) % classes
        losses.append(F.cross_entropy(rows.flatten(0, 1).float(), wanted.flatten()))
    return torch.stack(losses).sum()


def targets(candidate: Candidate) -> Tensor:
    """Return one target for each image of the inputs."""
    images = next(iter(candidate.inputs.values())).shape[0]
    return torch.arange(images) * 3 + 1


def versions(candidate: Candidate) -> str:
    """Return the versions of PyTorch and of the library that a candidate comes from."""
    library = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers"}.get(
        candidate.suite, candidate.family
    )
    found = {name: _version(name) for name in ("torch", library)}
    return ", ".join(f"{name} {number}" for name, number in found.items() if number)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:  # a model of the census's own
        return ""


def _timm(candidate: Candidate) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(candidate.model, **candidate.arguments)
    return model


def _torchvision(candidate: Candidate) -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.get_model(candidate.model, **candidate.arguments)
    return model


def _hugging_face(candidate: Candidate) -> nn.Module:
    import transformers

    kind = getattr(transformers, candidate.model)
    model: nn.Module = kind(kind.config_class(**candidate.arguments))
    return model.train()


def _imported(candidate: Candidate) -> nn.Module:
    """Build a model of a package, or of one's own, by what its name says: ``module:callable``."""
    module, _, name = candidate.model.partition(":")
    model: nn.Module = getattr(import_module(module), name)(**candidate.arguments)
    return model


_BUILDERS = {"timm": _timm, "torchvision": _torchvision, "hf": _hugging_face}


def wake(model: nn.Module) -> None:
    """Give parameters that are all zero small values, as after some training.

    Behind a gate that is zero (the last norm of a residual block, a layer scale) nothing has a gradient, whatever is
    inserted there, until the gate has moved.
    """
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


def _random(item: Input) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    if item.at is not None:
        return torch.tensor(item.at)
    if item.below is not None:
        return torch.randint(item.below, item.shape, generator=generator)
    return torch.randn(item.shape, generator=generator)
