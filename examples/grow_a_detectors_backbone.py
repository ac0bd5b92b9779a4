"""Grow the backbone of a torchvision detector, which cannot be traced as a whole, by the loss of the whole.

Run: python examples/grow_a_detectors_backbone.py    (seconds)
"""

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

import fxgrow


def main() -> None:
    """Train a few steps, grow, train on."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 16, 3, stride=4), nn.GELU(), nn.Conv2d(16, 16, 3, stride=2, padding=1))
    backbone.out_channels = 16
    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    detector = FasterRCNN(backbone, num_classes=2, min_size=96, max_size=96, rpn_anchor_generator=anchors)
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01, momentum=0.9)

    train(detector, optimizer, steps=3)
    part = fxgrow.grow_inside(
        detector,
        "backbone",
        lambda losses, _: sum(losses.values()),
        [(scenes(), None) for _ in range(32)],
        budget=0.3,
        optimizer=optimizer,
        samples=lambda batch: len(batch[0][0]),  # a list of images is a batch here
    )
    for site, depths in fxgrow.depth_map(part).items():
        if any(depths):
            print(f"backbone.{site}: {sum(depth > 0 for depth in depths)} of {len(depths)} channels grew")
    train(detector, optimizer, steps=3)
    print(f"still a {type(detector).__name__}: {sorted(detector.eval()(scenes()[0])[0])}")


def train(detector: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Make some steps and print the loss."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(detector.train()(*scenes()).values())
        loss.backward()
        optimizer.step()
        print(f"loss {loss.item():.3f}")


def scenes() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Return four images with a bright square in each, and where it is."""
    images, targets = [], []
    for _ in range(4):
        image, (x, y) = torch.rand(3, 96, 96) / 2, torch.randint(0, 64, (2,)).tolist()
        image[:, y : y + 24, x : x + 24] += 0.5
        images.append(image)
        targets.append({"boxes": torch.tensor([[x, y, x + 24.0, y + 24.0]]), "labels": torch.tensor([1])})
    return images, targets


if __name__ == "__main__":
    main()
