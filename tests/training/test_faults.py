"""What goes wrong in a run is said in one line, and leaves the run as it was."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_runs import batch, probe, traced, train
from torch import Tensor, nn, optim

import fxgrow
from fxgrow.errors import DivergenceError, FileError
from fxgrow.files import Checkpointer
from fxgrow.files.checksums import checksum_of_state
from fxgrow.testing import Draws
from fxgrow.training import Grower, LowMemoryWarning, events


def make(model: nn.Module | None = None, **options: Any) -> Grower:
    model = traced() if model is None else model
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    return Grower(model, F.cross_entropy, optimizer, at=(0,), compile=False, **options)


def everything(grower: Grower) -> str:
    return checksum_of_state(grower.state_dict())


@pytest.mark.parametrize("inputs", ["a tensor", "a tuple", "by keyword"])
def test_a_loss_that_is_not_finite_names_the_step_and_the_first_module(inputs: str) -> None:
    grower = make()
    train(grower.model, (grower.optimizer,), range(2))
    features, labels = batch(3)
    given: Any = {"a tensor": features, "a tuple": (features,), "by keyword": {"x": features}}[inputs]
    loss = F.cross_entropy(grower.model(features), labels)
    grower.check(loss, given)
    with torch.no_grad():
        grower.graph_module.get_parameter("blocks.1.fc1.bias")[2] = torch.inf
    loss = F.cross_entropy(grower.model(features), labels)
    before = everything(grower)
    match = r"step 2: the loss is nan: .* that of blocks\.1\.fc1, whose weights are not either; go on from the last"
    with pytest.raises(DivergenceError, match=match) as caught:
        grower.check(loss, given)
    assert caught.value.step == 2
    assert everything(grower) == before


def test_a_value_that_overflows_names_its_module_and_not_its_weights() -> None:
    grower = make()
    with torch.no_grad():
        grower.graph_module.get_parameter("blocks.0.fc2.weight").fill_(1e308)
    features, _ = batch(0)
    with pytest.raises(DivergenceError, match=r"the first output that is not finite is that of blocks\.0\.fc2;"):
        grower.check(torch.tensor(torch.nan), features)
    with pytest.raises(DivergenceError, match="the input x is not finite"):
        grower.check(torch.tensor(torch.nan), features * torch.inf)


def test_a_loss_that_alone_is_not_finite_says_so() -> None:
    with pytest.raises(DivergenceError, match="all outputs of the model are finite, and the loss is not"):
        make().check(float("inf"), batch(0)[0])
    with pytest.raises(DivergenceError, match="the loss is not"):
        make().check(float("nan"), batch(0)[0])


def test_a_loader_that_raises_in_an_event_leaves_the_run_as_it_was_and_may_be_tried_again() -> None:
    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        yield batch(0)
        raise OSError(errno.EIO, "a worker died")

    grower = make()
    train(grower.model, (grower.optimizer,), range(2))
    before = everything(grower)
    with pytest.raises(OSError, match="a worker died"):
        grower.grow(loader())
    assert everything(grower) == before
    assert grower.due(0)
    grower.grow(probe())
    assert len(grower.history) == 1


class Machine:
    """A machine on which analyses of more than some samples a batch run out of memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, samples: int, error: BaseException) -> None:
        self.tried: list[list[int]] = []
        analyze = events.analyze

        def limited(graph: Any, loss: Any, read: Any, **options: Any) -> Any:
            self.tried.append([one.samples for one in read])
            if max(self.tried[-1]) > samples:
                raise error
            return analyze(graph, loss, read, **options)

        monkeypatch.setattr(events, "analyze", limited)


ERRORS = [torch.OutOfMemoryError("tried to allocate 2 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]


@pytest.mark.parametrize("error", ERRORS, ids=["device", "machine"])
def test_an_analysis_that_runs_out_of_memory_is_tried_in_halves(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, grower = Machine(monkeypatch, 8, error), make()
    with pytest.warns(LowMemoryWarning, match="memory ran out, measuring again in halves: "):
        report = grower.grow(probe())
    assert machine.tried == [[16, 16], [8, 8, 8, 8]]
    assert report.scores.samples == 32


def test_one_that_runs_out_again_leaves_the_run_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    grower = make()
    train(grower.model, (grower.optimizer,), range(2))
    before = everything(grower)
    with monkeypatch.context() as patched:
        machine = Machine(patched, 4, ERRORS[0])
        with pytest.warns(LowMemoryWarning), pytest.raises(torch.OutOfMemoryError):
            grower.grow(probe())
    assert len(machine.tried) == 2
    assert everything(grower) == before
    grower.grow(probe())


def test_halves_have_the_scores_of_the_whole() -> None:
    """Of the gradient, a mean over all samples, to rounding; and data whose samples do not lie in front stay whole."""
    graph = traced().eval()
    read, _ = events.read_batches(graph, probe(), seed=0)
    scores = [fxgrow.analyze(graph, F.cross_entropy, data, score="gradient") for data in (read, events.halved(read))]
    for path in scores[0]:
        torch.testing.assert_close(scores[0][path].values, scores[1][path].values, rtol=1e-9, atol=1e-12)
    odd = events.Batch(0, (Draws().normal(4, 3),), torch.ones(()), samples=4)
    assert events.halved([odd])[0].inputs is odd.inputs


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grower, checkpoints = make(), Checkpointer(tmp_path)
    checkpoints.save(grower.state_dict(), step=0)
    saved = everything(grower)
    train(grower.model, (grower.optimizer,), range(1))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(FileError, match=r"step_1\.ckpt: the disk is full, nothing was written; make room"):
            checkpoints.save(grower.state_dict(), step=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0.ckpt"]
    found = checkpoints.load()
    assert found is not None
    grower.load_state_dict(found.state)
    assert everything(grower) == saved
