import copy
import functools
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim.lr_scheduler import CosineAnnealingLR

import fxgrow
from fxgrow.record.record import Origin
from fxgrow.testing import Draws
from fxgrow.training import Grower

# torch looks at .grad of the inputs of a compiled function, and hides the warning only where it is no error
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

ARGUMENTS = {
    "img_size": 16,
    "patch_size": 8,
    "in_chans": 1,
    "num_classes": 4,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
    "proj_drop_rate": 0.1,
}


def batches() -> list[tuple[Tensor, Tensor]]:
    images = Draws(dtype=torch.float32).normal(256, 1, 16, 16)
    labels = (images[:, 0, :8].mean(dim=(1, 2)) > 0).long() + 2 * (images[:, 0, 8:].mean(dim=(1, 2)) > 0).long()
    return list(zip(images.split(64), labels.split(64), strict=True))


def build() -> torch.fx.GraphModule:
    return copy.deepcopy(_build_once())


@functools.cache
def _build_once() -> torch.fx.GraphModule:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **ARGUMENTS)
    return fxgrow.trace(model, torch.randn(2, 1, 16, 16), origin=Origin("timm", "vit_tiny_patch16_224", ARGUMENTS))


def test_a_vision_transformer_grows_twice_under_layer_decay_and_compilation() -> None:
    traced, backend = build(), CompileCounterWithBackend("aot_eager")
    optimizer = create_optimizer_v2(traced, opt="adamw", lr=3e-3, weight_decay=0.05, layer_decay=0.8)
    groups = len(optimizer.param_groups)
    scheduler = CosineAnnealingLR(optimizer, T_max=20)
    options: dict[str, Any] = {"backend": backend, "fullgraph": True}
    grower = Grower(traced, F.cross_entropy, optimizer, budget=0.3, at=(1, 2), compile_options=options)
    losses, compiled = [], []
    for epoch in range(5):
        if grower.due(epoch):
            report = grower.grow(batches(), context={"epoch": epoch})
            assert report.loss_after == pytest.approx(report.loss_before, abs=1e-5)
        for images, labels in batches():
            loss = F.cross_entropy(grower.model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        losses.append(loss.item())
        compiled.append(backend.frame_count)
    # 20 steps on labels that a linear map could give; from log 4, which is to know nothing, the first epoch is not far
    assert losses[-1] < losses[0]
    assert compiled[0] == 3, "the stem, the block and the head"
    assert compiled[4] == compiled[2] <= compiled[1] + 2, "at most the two blocks after an event"
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in grower.graph_module.parameters())
    assert len(optimizer.param_groups) == groups


def test_the_compiled_grown_model_agrees_with_the_graph_in_both_modes() -> None:
    traced, options = build(), {"backend": "aot_eager", "fullgraph": True}
    optimizer = torch.optim.AdamW(traced.parameters())
    grower = Grower(traced, F.cross_entropy, optimizer, budget=0.3, score="random", compile_options=options)
    grower.grow(batches())
    images = batches()[0][0]
    for parameter in fxgrow.new_parameters(grower.graph_module).values():
        torch.nn.init.normal_(parameter, std=0.1)
    grower.model.eval()
    torch.testing.assert_close(grower.model(images), grower.graph_module(images), rtol=1e-5, atol=1e-6)
    grower.model.train()
    assert not torch.equal(grower.model(images), grower.model(images)), "dropout is on"
