from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fxgrow.errors import DataError, SettingsError
from fxgrow.runs import Settings
from fxgrow.runs.batches import Batches

Tiny = Callable[..., Settings]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder of 24 small pictures in two classes."""
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for index in range(12):
            pixels = random.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{index}.png")
    return f"imagefolder:{tmp_path}"


TIMM = {"augmentation.kind": "timm", "augmentation.options": {"auto_augment": "rand-m9-mstd0.5", "re_prob": 0.5}}


def files(folder: str, **more: Any) -> dict[str, Any]:
    return {"data.source": folder, "data.images": None, "data.batch_size": 4, "data.image_size": 8, **more}


def test_an_epoch_is_every_image_once_and_the_next_one_is_another(tiny: Tiny) -> None:
    batches = Batches(tiny({"data.images": 130}))
    first, second = ([labels for _, labels in batches.epoch()] for _ in range(2))
    assert batches.steps == len(first) == 2, "an incomplete batch is left out"
    assert not torch.equal(torch.cat(first), torch.cat(second))


@pytest.mark.parametrize(
    "changes",
    [{"augmentation.kind": "shift"}, {"augmentation.mixup": 0.8, "augmentation.cutmix": 1.0}],
    ids=["shift", "mixup"],
)
def test_what_is_left_in_the_middle_goes_on_with_the_same_images(tiny: Tiny, changes: dict[str, Any]) -> None:
    whole, left, resumed = (Batches(tiny(changes)) for _ in range(3))
    expected = [*whole.epoch(), *whole.epoch()]
    epoch = left.epoch()
    given = [next(epoch) for _ in range(3)]
    resumed.load_state_dict(left.state_dict())
    found = [*given, *resumed.epoch(), *resumed.epoch()]
    assert len(found) == len(expected) == 8
    for (images, labels), (others, other_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


def test_timms_transforms_depend_on_neither_workers_nor_what_was_read_before(tiny: Tiny, folder: str) -> None:
    whole, many, left = (Batches(tiny(files(folder, **TIMM, **{"data.workers": n}))) for n in (0, 2, 0))
    before = torch.get_rng_state()
    expected = list(whole.epoch())
    assert torch.equal(before, torch.get_rng_state())
    next(left.epoch())
    left.load_state_dict(left.state_dict())
    for found in (list(many.epoch()), [expected[0], *left.epoch()]):
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(found, expected, strict=True))


def test_augmentation_leaves_probe_and_test_alone(tiny: Tiny, folder: str) -> None:
    plain, augmented = Batches(tiny(files(folder))), Batches(tiny(files(folder, **TIMM)))
    for name in ("probe", "test_batches"):
        pairs = zip(getattr(plain, name)(), getattr(augmented, name)(), strict=True)
        assert all(torch.equal(a, b) for (a, _), (b, _) in pairs)
    assert not torch.equal(next(plain.epoch())[0], next(augmented.epoch())[0])


def test_timms_transforms_take_stored_images_of_other_channels(tiny: Tiny) -> None:
    batches = Batches(tiny({**TIMM, "data.channels": 3, "data.image_size": 16, "augmentation.options": {"hflip": 0.5}}))
    images, labels = next(batches.epoch())
    assert images.shape == (64, 3, 16, 16)
    assert labels.shape == (64,)


def test_mixup_gives_shares_of_classes(tiny: Tiny) -> None:
    images, targets = next(Batches(tiny({"augmentation.mixup": 0.8, "label_smoothing": 0.1})).epoch())
    assert images.shape == (64, 1, 8, 8)
    assert targets.shape == (64, 10)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(64))
    with pytest.raises(SettingsError, match="mixup takes images in pairs; give an even number"):
        Batches(tiny({"augmentation.mixup": 0.8, "data.batch_size": 63}))


def test_what_cannot_be_augmented_is_refused_before_the_first_epoch(tiny: Tiny) -> None:
    with pytest.raises(SettingsError, match=r"augmentation.options: .*; give arguments of timm.data.create_transform"):
        Batches(tiny({"augmentation.kind": "timm", "augmentation.options.wings": 2}))
    with pytest.raises(DataError, match="its values are no colours"):
        Batches(tiny({"augmentation.kind": "timm", "data.source": "mnist1d"}))
    with pytest.raises(SettingsError, match="training images fill no batch of 2000; give a smaller one"):
        Batches(tiny({"data.images": None, "data.batch_size": 2000}))
