"""The data of a run: batches whose order and augmentation can be taken up in the middle of an epoch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset, Subset

from fxgrow.data import ImageDataset, open_source
from fxgrow.data.datasets import StoredImages
from fxgrow.errors import SettingsError
from fxgrow.execution.ranks import Ranks
from fxgrow.runs.augmentation import Pictures, batch_transforms, pictures
from fxgrow.runs.settings import Settings

_TEST_BATCH = 250  #: images of a batch to test on, where they are in memory
_MEMORY = 2**30  #: bytes that a data set may take, prepared, to be held in memory

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Planned:
    """One batch before it is read: which images, and all that is random about it."""

    chosen: Tensor
    seeds: Tensor  #: of each image's own transform
    drawn: tuple[Any, ...]  #: for each transform of the batch; tensors have a line for each image

    def share(self, part: slice) -> "_Planned":
        """Return some of its images."""
        drawn = tree_map_only(Tensor, lambda lines: lines[part], self.drawn)
        return _Planned(self.chosen[part], self.seeds[part], drawn)


class _Reader(Protocol):
    """Reads the images of planned batches."""

    def __call__(self, plan: Sequence[_Planned]) -> Iterator[Batch]: ...


class Batches:
    """The training data: `epoch` yields its batches, shuffled and augmented; an incomplete last one is left out.

    All randomness comes from one generator, whose state at the start of an epoch and the position in it are the state:
    an iteration that was left in the middle goes on there, with the same images. All ranks draw the same, and each
    reads its share of every batch, so that an epoch has the same batches on whatever number of ranks.

    Raises:
        SettingsError: If the images fill no batch, or the ranks cannot share one evenly.
    """

    def __init__(self, settings: Settings) -> None:
        self.ranks = Ranks()
        data, seed = settings.data, settings.seed
        dataset, self._test = (_open(settings, train=part) for part in (True, False))
        self.classes = dataset.num_classes
        self.image_shape = tuple(dataset[0][0].shape)
        self.generator = torch.Generator().manual_seed(seed)
        self._chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[: data.images]
        self._size, self._workers = data.batch_size, data.workers
        self.share = self._size // self.ranks.count  #: images of a batch on one rank
        self._part = slice(self.ranks.index * self.share, (self.ranks.index + 1) * self.share)
        self.steps = len(self._chosen) // self._size  #: batches of an epoch
        if not self.steps:
            what = f"{len(self._chosen):,} training images fill no batch of {self._size}"
            raise SettingsError(what, where="data.batch_size", fix="give a smaller one")
        if self._size % self.ranks.count:
            what = f"{self.ranks.count} processes cannot share {self._size} images evenly"
            raise SettingsError(what, where="data.batch_size", fix=f"give a multiple of {self.ranks.count}")
        self._transforms = batch_transforms(settings, self.classes, self.share)
        augmented = pictures(dataset, settings)
        self._stored = self._test.tensors() if _fits(self._test) else None
        self._plain = self._reader(dataset)
        self._augmented = self._plain if augmented is None else self._loader(augmented)
        self._seeded = augmented is not None
        self.position = 0  #: batches of the present epoch that have been given out
        self._start = self.generator.get_state()

    @property
    def sizes(self) -> tuple[int, int]:
        """How many images are trained on, and how many tested on, on all ranks together."""
        return len(self._chosen), len(self._test)

    def epoch(self) -> Iterator[Batch]:
        """Yield the batches of an epoch from the present position on."""
        if not self.position:
            self._start = self.generator.get_state()
        else:
            self.generator.set_state(self._start)
        for batch in self._read(self._plan()[self.position :]):
            self.position = (self.position + 1) % self.steps
            yield batch

    def some(self, images: int) -> Batch:
        """Return the first images of the data, augmented, without reading others."""
        return next(self._read([self._planned(self._chosen[:images])]))

    def probe(self) -> Iterator[Batch]:
        """Yield shuffled batches without augmentation."""
        order = torch.randperm(len(self._chosen), generator=self.generator)
        chosen = torch.split(order[: self.steps * self._size], self._size)
        return self._plain([_Planned(self._chosen[part], torch.empty(0), ()).share(self._part) for part in chosen])

    def test_batches(self) -> Iterator[Batch]:
        """Yield this rank's share of the test data, in its order."""
        first, count = self.ranks.index, self.ranks.count
        if self._stored is not None:
            return zip(*(torch.split(tensor[first::count], _TEST_BATCH) for tensor in self._stored), strict=True)
        test = Subset(self._test, range(first, len(self._test), count))
        return iter(DataLoader(test, self.share, num_workers=self._workers, generator=_own()))

    def state_dict(self) -> dict[str, Any]:
        """Return where the data stands; in the middle of an epoch too."""
        return {"generator": self._start if self.position else self.generator.get_state(), "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._start, self.position = state["generator"], state["position"]
        self.generator.set_state(self._start)

    def _plan(self) -> list[_Planned]:
        order = torch.randperm(len(self._chosen), generator=self.generator)
        batches = torch.split(order[: self.steps * self._size], self._size)
        return [self._planned(self._chosen[batch]).share(self._part) for batch in batches]

    def _read(self, plan: Sequence[_Planned]) -> Iterator[Batch]:
        for planned, (images, targets) in zip(plan, self._augmented(plan), strict=True):
            for transform, drawn in zip(self._transforms, planned.drawn, strict=True):
                images, targets = transform.apply(images, targets, drawn)
            yield images, targets

    def _planned(self, chosen: Tensor) -> _Planned:
        seeds = torch.randint(2**31, (len(chosen) if self._seeded else 0,), generator=self.generator)
        drawn = tuple(transform.draw(len(chosen), self.generator) for transform in self._transforms)
        return _Planned(chosen, seeds, drawn)

    def _reader(self, dataset: ImageDataset) -> _Reader:
        if not _fits(dataset):
            return self._loader(dataset)
        images, labels = dataset.tensors()
        return lambda plan: ((images[planned.chosen], labels[planned.chosen]) for planned in plan)

    def _loader(self, dataset: Dataset[tuple[Tensor, int]]) -> _Reader:
        def read(plan: Sequence[_Planned]) -> Iterator[Batch]:
            keys: list[list[Any]] = [planned.chosen.tolist() for planned in plan]
            if isinstance(dataset, Pictures):
                keys = [list(zip(*pair, strict=True)) for pair in zip(keys, _seeds(plan), strict=True)]
            workers = min(self._workers, len(keys))
            return iter(DataLoader(dataset, batch_sampler=keys, num_workers=workers, generator=_own()))

        return read


def _fits(dataset: ImageDataset) -> bool:
    """Say whether a data set is held in memory, and not prepared image by image."""
    return isinstance(dataset, StoredImages) and len(dataset) * dataset[0][0].nbytes <= _MEMORY


def _seeds(plan: Sequence[_Planned]) -> list[list[int]]:
    return [planned.seeds.tolist() for planned in plan]


def _own() -> torch.Generator:
    """Return a generator for the loader, which would draw from the global one."""
    return torch.Generator().manual_seed(0)


def _open(settings: Settings, *, train: bool) -> ImageDataset:
    data = settings.data
    seed = settings.seed if data.seed is None else data.seed
    return open_source(data.source, train=train, image_size=data.image_size, channels=data.channels, seed=seed)
