"""What happens to training images. Random numbers are drawn apart from use, so that some can be skipped."""

import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from fxgrow.data import ImageDataset
from fxgrow.errors import DataError, SettingsError, first_line
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.runs.settings import Settings


class BatchTransform(Protocol):
    """Changes a batch of images ``(batch, channels, height, width)`` and its targets."""

    def draw(self, count: int, generator: torch.Generator) -> Any:
        """Draw what `apply` needs for `count` images; tensors have a line for each of them."""

    def apply(self, images: Tensor, targets: Tensor, drawn: Any) -> tuple[Tensor, Tensor]:
        """Return what becomes of a batch."""


class Shift:
    """Rotates and shifts every image by its own random amount: light augmentation of digits.

    Args:
        degrees: Largest rotation, either way.
        pixels: Largest shift, either way.
    """

    def __init__(self, degrees: float = 10, pixels: float = 2) -> None:
        self.degrees, self.pixels = degrees, pixels

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw an angle ``(count,)`` and a shift ``(count, 2)`` for each image, each in -1 .. 1 of the largest."""
        angle = _symmetric(count, generator)
        return angle, torch.stack([_symmetric(count, generator) for _ in range(2)], dim=1)

    def apply(self, images: Tensor, targets: Tensor, drawn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the images moved, and the targets as they are."""
        angle, shift = math.radians(self.degrees) * drawn[0], 2 * self.pixels / images.shape[-1] * drawn[1]
        cosine, sine = angle.cos(), angle.sin()
        rotation = torch.stack([cosine, -sine, sine, cosine], dim=1).view(len(images), 2, 2)
        grid = F.affine_grid(torch.cat([rotation, shift.unsqueeze(2)], dim=2), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False), targets


class Mix:
    """Mixup and CutMix, by ``timm.data.Mixup``: images in pairs, and targets ``(batch, classes)`` of shares."""

    def __init__(self, settings: Settings, classes: int) -> None:
        from timm.data.mixup import Mixup

        augmentation = settings.augmentation
        self._mixup = Mixup(  # type: ignore[no-untyped-call]
            augmentation.mixup,
            augmentation.cutmix,
            label_smoothing=settings.label_smoothing,
            num_classes=classes,
        )

    def draw(self, count: int, generator: torch.Generator) -> int:
        """Draw a seed."""
        return int(torch.randint(2**31, (), generator=generator))

    def apply(self, images: Tensor, targets: Tensor, drawn: int) -> tuple[Tensor, Tensor]:
        """Return the images mixed, and the shares of their classes."""
        with preserved_randomness(drawn):
            mixed: tuple[Tensor, Tensor] = self._mixup(images, targets)
        return mixed


def batch_transforms(settings: Settings, classes: int, images: int) -> list[BatchTransform]:
    """Return what happens to whole batches, in order.

    Args:
        settings: The run.
        classes: How many there are.
        images: How many of a batch are read together.

    Raises:
        SettingsError: If mixup has no pairs.
    """
    augmentation = settings.augmentation
    transforms: list[BatchTransform] = [Shift()] if augmentation.kind == "shift" else []
    if augmentation.mixup or augmentation.cutmix:
        if images % 2:
            fix = "give an even number for each process"
            raise SettingsError("mixup takes images in pairs", where="data.batch_size", fix=fix)
        transforms.append(Mix(settings, classes))
    return transforms


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images under timm's random transforms; the key of an image is its index and the seed of its transform.

    So an image's augmentation depends neither on the number of workers nor on what was read before.

    Raises:
        SettingsError: If timm refuses the options.
    """

    def __init__(self, dataset: ImageDataset, options: dict[str, Any]) -> None:
        from timm.data.transforms_factory import create_transform

        self._dataset = dataset
        height, width = dataset[0][0].shape[-2:]
        try:
            self._transform = create_transform(
                (height, width), is_training=True, mean=dataset.mean, std=dataset.std, **options
            )
        except (TypeError, ValueError, AssertionError, KeyError) as error:
            fix = "give arguments of timm.data.create_transform"
            raise SettingsError(first_line(error), where="augmentation.options", fix=fix) from error

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = key
        picture, label = self._dataset.picture(index)
        with preserved_randomness(seed):
            image = self._transform(picture)
        return self._dataset.recolour(image.unsqueeze(0))[0], label

    def __len__(self) -> int:
        return len(self._dataset)


def pictures(dataset: ImageDataset, settings: Settings) -> Pictures | None:
    """Return the data set under timm's transforms, if they are asked for.

    Raises:
        DataError: If timm is not installed, or the data are no pictures.
        SettingsError: If timm refuses the options.
    """
    if settings.augmentation.kind != "timm":
        return None
    try:
        augmented = Pictures(dataset, settings.augmentation.options)
    except ImportError as error:
        fix = "pip install 'fxgrow[timm]'"
        raise DataError("it needs timm, which is not installed", where="augmentation.kind", fix=fix) from error
    augmented[0, 0]  # what does not work is said before the first epoch
    return augmented


def _symmetric(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * 2 - 1
