import torch
from torch import Tensor

from fxgrow.runs.augmentation import Shift


def shifted(images: Tensor, **options: float) -> Tensor:
    shift = Shift(**options)
    drawn = shift.draw(len(images), torch.Generator().manual_seed(0))
    return shift.apply(images, torch.zeros(len(images)), drawn)[0]


def test_a_shift_is_small_and_follows_its_generator() -> None:
    images = torch.zeros(64, 1, 28, 28)
    images[:, :, 12:16, 12:16] = 1
    moved = shifted(images)
    assert torch.equal(moved, shifted(images))
    assert not torch.equal(moved, images)
    columns = torch.arange(28.0)
    centre = (moved.sum(dim=(1, 2)) * columns).sum(dim=1) / moved.sum(dim=(1, 2, 3))
    assert (centre - 13.5).abs().max() < 3  # two pixels at most: the square turns about its own centre
    torch.testing.assert_close(shifted(images, degrees=0, pixels=0), images)
