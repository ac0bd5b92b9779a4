"""The datasets that the sources return: normalised float images with integer labels."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from fxgrow.errors import DataError, first_line


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images ``(channels, height, width)``, float32 and normalised, with labels ``0 .. num_classes - 1``.

    Args:
        num_classes: The number of classes.
        mean: Mean of each stored channel, for values in [0, 1].
        std: Standard deviation of each stored channel.
        image_size: Height and width to resize to; None keeps the stored size.
        channels: 1 for grey, 3 for colour; None keeps the stored channels.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: tuple[int, int] | None,
        channels: int | None,
    ) -> None:
        self.num_classes = num_classes
        self.image_size = image_size
        self.channels = channels
        self.mean, self.std = tuple(mean), tuple(std)  #: of each stored channel, for values in [0, 1]
        self._mean = torch.tensor(mean).view(-1, 1, 1)
        self._std = torch.tensor(std).view(-1, 1, 1)

    def prepare(self, images: Tensor) -> Tensor:
        """Resize, normalise and recolour images ``(batch, channels, height, width)`` with values in [0, 1]."""
        if self.image_size is not None and tuple(images.shape[-2:]) != self.image_size:
            images = F.interpolate(images, self.image_size, mode="bilinear", antialias=True, align_corners=False)
        return self.recolour((images - self._mean) / self._std)

    def recolour(self, images: Tensor) -> Tensor:
        """Give images ``(batch, channels, height, width)`` the channels that were asked for."""
        return _with_channels(images, self.channels)

    def __len__(self) -> int:
        """Return the number of images."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image and its label."""
        raise NotImplementedError

    def picture(self, index: int) -> tuple[Any, int]:
        """Return one image as it is stored, a PIL image for transforms that take one, and its label.

        Raises:
            DataError: If what is stored is no picture.
        """
        raise NotImplementedError

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return all images ``(n, channels, height, width)`` and labels ``(n,)`` in memory."""
        pairs = [self[index] for index in range(len(self))]
        return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


class StoredImages(ImageDataset):
    """A dataset held in memory.

    Args:
        images: ``(n, channels, height, width)``, uint8 in 0 .. 255 or float in [0, 1].
        labels: ``(n,)``, int64.
        options: As for `ImageDataset`.
    """

    def __init__(self, images: Tensor, labels: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        image = _unit_range(self._images[index].unsqueeze(0))
        return self.prepare(image)[0], int(self._labels[index])

    def picture(self, index: int) -> tuple[Any, int]:
        """Return one image as a PIL image, and its label."""
        from PIL import Image

        image = self._images[index]
        if image.dtype != torch.uint8 and (image.min() < 0 or image.max() > 1):
            fix = "use it without transforms for pictures"
            raise DataError("its values are no colours", where=f"image {index}", fix=fix)
        pixels = image if image.dtype == torch.uint8 else (255 * image).round().clamp(0, 255).to(torch.uint8)
        return Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy()), int(self._labels[index])

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return all images ``(n, channels, height, width)`` and labels ``(n,)`` in memory."""
        return self.prepare(_unit_range(self._images)), self._labels


class LabelledFiles(Protocol):
    """What torchvision's datasets offer: a length, and a PIL image with its label."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Any, int]: ...


class FileImages(ImageDataset):
    """Chosen images of a dataset that decodes one file at a time.

    Args:
        files: The dataset, of PIL images.
        indices: Which of its images belong to this split.
        decode: Makes a PIL image a tensor ``(channels, height, width)``, float in [0, 1], of the size asked for.
        options: As for `ImageDataset`.
    """

    def __init__(
        self, files: LabelledFiles, indices: Sequence[int], decode: Callable[[Any], Tensor], **options: Any
    ) -> None:
        super().__init__(**options)
        self._files, self._indices, self._decode = files, indices, decode

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.picture(index)
        return self.prepare(self._decode(image).unsqueeze(0))[0], label

    def picture(self, index: int) -> tuple[Any, int]:
        """Return one image as the file holds it, and its label.

        Raises:
            DataError: If the file is no image, or damaged.
        """
        number = self._indices[index]
        try:
            picture, label = self._files[number]
        except OSError as error:  # what PIL raises of a damaged file, too
            samples = getattr(self._files, "samples", None)
            where = f"image {number}" if samples is None else str(samples[number][0])
            raise DataError(f"it is no image ({first_line(error)})", where=where, fix="remove or mend it") from error
        return picture, label


def stratified_split(labels: Tensor, *, test_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return indices of a training and a test part in which every class has its share.

    Args:
        labels: ``(n,)``, int64.
        test_share: Share of every class that goes to the test part, rounded; a class of two or more gives at least one.
        seed: Seed of the choice.

    Returns:
        Two sorted index vectors that together are ``0 .. n - 1``.
    """
    generator = torch.Generator().manual_seed(seed)
    in_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels):
        members = (labels == label).nonzero().flatten()
        size = max(round(test_share * len(members)), 1 if len(members) > 1 else 0)
        in_test[members[torch.randperm(len(members), generator=generator)[:size]]] = True
    return (~in_test).nonzero().flatten(), in_test.nonzero().flatten()


def _unit_range(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _with_channels(images: Tensor, channels: int | None) -> Tensor:
    if channels is None or images.shape[1] == channels:
        return images
    grey = images.mean(dim=1, keepdim=True)
    return grey.expand(-1, channels, -1, -1).contiguous()
