"""Fine-tune a torchvision ResNet on a folder of images, and let it grow once while it trains.

Run: python examples/fine_tune_a_resnet.py [FOLDER]    (seconds; without a folder it paints a small one)

The folder has one folder of images for each class, as torchvision's ImageFolder and `fxgrow train` read it.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image

import fxgrow
from fxgrow.data import open_source

EPOCHS, GROW_AT = 2, (1,)


def main(folder: str) -> None:
    """Train two epochs, growing before the second."""
    torch.manual_seed(0)
    images = open_source(f"imagefolder:{folder}", train=True, image_size=32)
    loader = torch.utils.data.DataLoader(images, batch_size=32, shuffle=True)
    model = torchvision.models.resnet18()  # weights="DEFAULT" starts from ImageNet's
    model.fc = torch.nn.Linear(model.fc.in_features, images.num_classes)

    network = fxgrow.trace(model, next(iter(loader))[0])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    # in the last stage only: what was learnt elsewhere is general
    options = {"budget": 0.02, "include": ["layer4.*"], "compile": False}
    grower = fxgrow.Grower(network, F.cross_entropy, optimizer, at=GROW_AT, **options)
    for epoch in range(EPOCHS):
        if grower.due(epoch):
            report = grower.grow(loader, context={"epoch": epoch})
            print(f"{report.event.parameters_after - report.event.parameters_before:,} parameters grew")
        right = 0
        for inputs, labels in loader:
            outputs = grower.model(inputs)
            optimizer.zero_grad()
            F.cross_entropy(outputs, labels).backward()
            optimizer.step()
            right += int((outputs.argmax(1) == labels).sum())
        print(f"epoch {epoch}: {right} of {len(images)} right")


def paint(folder: Path) -> None:
    """Write 160 images of each of two classes: lines that lie, and lines that stand."""
    noise = np.random.default_rng(0)
    for name in ("lying", "standing"):
        (folder / name).mkdir()
        for number in range(160):
            image = noise.integers(0, 120, (64, 64, 3), dtype=np.uint8)
            image[noise.integers(0, 8) :: 8] += 120
            image = image if name == "lying" else image.transpose(1, 0, 2)
            Image.fromarray(np.ascontiguousarray(image)).save(folder / name / f"{number}.png")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as made:
            paint(Path(made))
            main(made)
