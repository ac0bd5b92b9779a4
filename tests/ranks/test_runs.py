"""`fxgrow train` on two ranks: one run, of which the first rank writes."""

import csv
import io
import shutil
import socket
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rich.console import Console

import fxgrow
from fxgrow.errors import SettingsError
from fxgrow.results import METRICS
from fxgrow.runs import Settings, override
from fxgrow.runs.command import resume, train
from fxgrow.runs.processes import joined_ranks
from fxgrow.runs.reading import settings_from
from fxgrow.runs.run import Run
from tests.ranks.conftest import OnRanks
from tests.runs.conftest import TINY

#: grows; dropout is each rank's own, and an average of the weights is what is saved
NEURONS = {
    "epochs": 3,
    "model.arguments.depth": 1,
    "growth": {"at": [1], "samples": 64, "include": ["blocks.*.mlp.fc1"]},
    "ema": 0.9,
}
#: wakes; without dropout it is the run of one process but for rounding
BLOCKS = {
    "epochs": 2,
    "model.arguments.depth": 2,
    "model.arguments.proj_drop_rate": 0.0,
    "stages.depth": [0.5],
    "augmentation.kind": "shift",
}


def settings(changes: dict[str, Any]) -> Settings:
    return settings_from(override(TINY, {"data.images": 128, "data.batch_size": 32, **changes}))


def on_one_rank(rank: int, folder: str) -> dict[str, Any]:
    """Train a run that grows and one that wakes, and let the first go on from the checkpoint before its last."""
    neurons, blocks, said = Path(folder, "neurons"), Path(folder, "blocks"), io.StringIO()
    with redirect_stdout(said):
        train(settings(NEURONS), neurons, Console())
        train(settings(BLOCKS), blocks, Console())
        if rank == 0:
            shutil.copy(neurons / "model.pt", neurons / "first.pt")
            (neurons / "checkpoints" / "step_12.ckpt").unlink()
        dist.barrier()
        resume(neurons, Console())
    with pytest.raises(SettingsError) as uneven:
        Run(settings({"data.batch_size": 33}))
    return {"said": said.getvalue(), "uneven": str(uneven.value)}


def test_a_run_on_two_ranks_is_one_run_that_the_first_one_writes_and_that_goes_on(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    first, second = on_ranks(on_one_rank, str(tmp_path))
    assert "2 processes, each on" in first["said"]
    assert "it goes on behind step 8 of 12" in first["said"]
    assert second["said"] == ""
    assert second["uneven"] == "data.batch_size: 2 processes cannot share 33 images evenly; give a multiple of 2"
    grown, again = (fxgrow.load(tmp_path / "neurons" / name) for name in ("first.pt", "model.pt"))
    assert sum("pseudo" in name for name, _ in grown.named_parameters()) > 0
    for (name, one), other in zip(grown.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other), name
    alone = Run(settings(BLOCKS))
    alone.train()
    for line, expected in zip(metrics(tmp_path / "blocks"), alone.metrics, strict=True):
        assert int(line["parameters"]) == expected.parameters
        assert float(line["test_loss"]) == pytest.approx(expected.test_loss, rel=1e-4)


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / METRICS).open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_processes_of_torchrun_join_and_take_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with joined_ranks() as ranks:
        assert dist.is_initialized()
        assert (ranks.index, ranks.count) == (0, 1)
    assert not dist.is_initialized()
