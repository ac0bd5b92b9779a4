import shutil
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.files import describe
from fxgrow.record.record import record_of, update_record
from fxgrow.results import Results
from fxgrow.testing import random_scores

matplotlib.use("Agg")
if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
    collect_ignore = ["test_in_a_browser.py"]  # the gate's workflow installs them; CONTRIBUTING says so

EPOCHS, EVENTS = 4, (1, 2)
METRICS = "model,epoch,parameters,flops,learning_rate,train_loss,test_loss,test_accuracy,seconds\n"


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.fc2(torch.tanh(self.fc1(x)))


class Network(nn.Module):
    def __init__(self, width=8, blocks=3):
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


@pytest.fixture(scope="session")
def batches():
    drawn = np.random.default_rng(0)
    inputs = torch.from_numpy(drawn.standard_normal((256, 6))).float()
    return list(zip(inputs.split(64), torch.from_numpy(drawn.integers(0, 3, 256)).split(64), strict=True))


@pytest.fixture(scope="session")
def grown(batches):
    """A network that grew twice, between two analyses each, and carries fresh scores."""
    torch.manual_seed(0)
    network, loss = fxgrow.trace(Network(), batches[0][0]), nn.functional.cross_entropy
    grower = fxgrow.Grower(
        network,
        loss,
        torch.optim.SGD(network.parameters(), lr=0.5),
        budget=0.6,
        at=EVENTS,
        include=("blocks.?.fc?",),
        compile=False,
    )
    for epoch in range(EPOCHS):
        if grower.due(epoch):
            grower.grow(batches, context={"epoch": epoch})
        for inputs, target in batches:
            grower.optimizer.zero_grad()
            loss(grower.model(inputs), target).backward()
            grower.optimizer.step()
    fxgrow.analyze(grower.graph_module, loss, batches, sites=["blocks.*"])
    return grower.graph_module


@pytest.fixture(scope="session")
def folder(grown, tmp_path_factory):
    """The folder of a run: two models by epoch, settings and a command."""
    folder = tmp_path_factory.mktemp("results") / "small"
    folder.mkdir()
    fxgrow.save(grown, folder / "model.pt")
    lines = [f"grown,{e},{100 + 10 * e},{200 + 10 * e},0.1,{2 - e / 4},{2.1 - e / 4},{e / 10},{e}" for e in range(5)]
    lines += [f"base,{e},100,200,0.1,nan,{2.2 - e / 4},{e / 20},{e}" for e in range(5)]
    (folder / "metrics.csv").write_text(METRICS + "\n".join(lines) + "\n")
    (folder / "recipe.toml").write_text('[data]\nseed = 7\nnote = "<script>x</script>"\n')
    return folder


@pytest.fixture(scope="session")
def deit():
    """A run of a DeiT-S that grew nine times, as the paper's schedule has it; its numbers are random."""
    import timm

    small = timm.create_model("deit_small_patch16_224", num_classes=100, img_size=32)  # the page shows weights alone
    network = fxgrow.trace(small, torch.zeros(2, 3, 32, 32), check=False)
    sites = ["blocks.*.attn.qkv", "blocks.*.attn.proj", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2"]
    for event in range(9):
        context = {"epoch": 50 + 30 * event}
        network = fxgrow.grow(network, random_scores(network, event), budget=0.05, include=sites, context=context)
    epochs = [
        {"epoch": float(e), "test_loss": 1 / (1 + e), "parameters": 2e7 + e, "test_accuracy": 0.5} for e in range(300)
    ]
    return Results("deit", describe(network), {"grown": epochs, "uniform": epochs})


@pytest.fixture(scope="session")
def woken(batches):
    """A run of which one block in three runs at first, and all from epoch 2 on."""
    network = Network()
    growing = fxgrow.Progressive(network, batches[0][0], depth=1 / 3)
    growing.advance()
    growing.advance()
    epochs = [{"epoch": float(epoch), "test_loss": 1 / (1 + epoch)} for epoch in range(EPOCHS + 1)]
    traced = growing.traced
    events = zip(record_of(traced).history, (1, 2.5), strict=True)
    update_record(traced, history=tuple(replace(event, context={"epoch": epoch}) for event, epoch in events))
    return Results("woken", describe(traced), {"model": epochs})
