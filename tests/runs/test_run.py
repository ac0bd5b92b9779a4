from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fxgrow import new_parameters
from fxgrow.errors import DivergenceError, SettingsError
from fxgrow.runs import Settings
from fxgrow.runs.growing import GrowingNeurons, WakingBlocks
from fxgrow.runs.run import Run

Tiny = Callable[..., Settings]
NEURONS = {
    "growth.at": [1, 2],
    "growth.budget": 0.5,
    "growth.samples": 64,
    "growth.score": "random",
    "growth.include": ["blocks.*.mlp.fc1"],
    "model.arguments.depth": 2,
}
BLOCKS = {"stages.depth": [0.25, 0.5]}


def test_a_run_without_growth_trains_the_model_that_is_named(tiny: Tiny, watcher: Any) -> None:
    run = Run(tiny({"epochs": 6, "optimizer.rate": 5e-3}))
    run.train(watcher)
    assert run.done
    assert watcher.events == []
    assert len(watcher.losses) == run.step == 24
    assert [line.epoch for line in run.metrics] == list(range(7))
    assert run.metrics[-1].test_loss < run.metrics[0].test_loss


def test_neurons_grow_before_the_epochs_that_are_named(tiny: Tiny, watcher: Any) -> None:
    run = Run(tiny({**NEURONS, "growth.score": "eigen"}))
    run.train(watcher)
    assert [(event.number, event.planned, event.epoch, event.step) for event in watcher.events] == [
        (1, 2, 1, 0),
        (2, 2, 2, 0),
    ]
    sizes = [line.parameters for line in run.metrics]
    assert sizes[0] == sizes[1] < sizes[2] < sizes[3] <= 1.5 * sizes[0]
    assert isinstance(run.growing, GrowingNeurons)


def test_blocks_wake_at_their_share_of_the_training(tiny: Tiny, watcher: Any) -> None:
    run = Run(tiny({**BLOCKS, "epochs": 4}))
    run.train(watcher)
    assert isinstance(run.growing, WakingBlocks)
    assert [(event.epoch, event.step) for event in watcher.events] == [(1, 0), (2, 0)]
    assert [event.parameters_after for event in watcher.events][-1] == run.metrics[-1].parameters
    assert sum(parameter.numel() for parameter in run.growing.model.model.parameters()) == run.growing.parameters


def test_the_same_settings_give_the_same_numbers_and_leave_random_state_alone(tiny: Tiny, watcher: Any) -> None:
    before = torch.get_rng_state()
    found = []
    for _ in range(2):
        run = Run(tiny(NEURONS))
        run.train(watcher)
        found.append([(line.train_loss, line.test_loss) for line in run.metrics[1:]])
    assert found[0] == found[1]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "changes",
    [{**NEURONS, "augmentation.kind": "shift", "growth.new_warmup": 3}, {**BLOCKS, "ema": 0.9}],
    ids=["neurons", "blocks"],
)
def test_a_run_that_is_stopped_goes_on_bit_for_bit_from_its_state(
    tiny: Tiny, watcher: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Wherever it stops, before, at, between or behind its events; itself, and another one from what it saved."""
    whole, stopped, stops = Run(tiny(changes)), Run(tiny(changes)), (2, 4, 6, 9)
    whole.train(watcher)
    for stop in stops:
        stopped.train(watcher, stop=lambda stop=stop: stopped.step == stop)
        assert (stopped.step, stopped.done) == (stop, False)
        torch.save(stopped.state_dict(), tmp_path / f"{stop}.pt")
    resumed = [Run(tiny(changes)) for _ in stops]
    for stop, run in zip(stops, resumed, strict=True):
        run.load_state_dict(torch.load(tmp_path / f"{stop}.pt", weights_only=True))
    for run in (stopped, *resumed):
        run.train(watcher)
        assert run.done
        assert [line.test_loss for line in run.metrics] == [line.test_loss for line in whole.metrics]
        assert [line.train_loss for line in run.metrics[1:]] == [line.train_loss for line in whole.metrics[1:]]
        weights = zip(run.growing.tested.parameters(), whole.growing.tested.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in weights)


@pytest.mark.parametrize("changes", [NEURONS, BLOCKS], ids=["neurons", "blocks"])
def test_an_average_of_the_weights_is_what_is_tested(tiny: Tiny, watcher: Any, changes: dict[str, Any]) -> None:
    plain, averaged = (Run(tiny({**changes, "ema": decay})) for decay in (0.0, 0.9))
    for run in (plain, averaged):
        run.train(watcher)
    assert [line.train_loss for line in plain.metrics[1:]] == [line.train_loss for line in averaged.metrics[1:]]
    assert plain.metrics[-1].test_loss != averaged.metrics[-1].test_loss
    assert averaged.growing.tested is not averaged.growing.graph_module
    sizes = [sum(p.numel() for p in run.growing.tested.parameters()) for run in (plain, averaged)]
    assert sizes[0] == sizes[1], "the average has grown too"


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_new_parameters_learn_at_their_own_rate(tiny: Tiny, watcher: Any, factor: float) -> None:
    run = Run(tiny({**NEURONS, "growth.new_lr_factor": factor}))
    run.train(watcher)
    silent = [p for name, p in new_parameters(run.growing.graph_module).items() if name.endswith("fc2.weight")]
    assert silent
    assert all(bool((parameter == 0).all()) == (factor == 0) for parameter in silent)


@pytest.mark.parametrize(
    "changes",
    [
        {"augmentation.mixup": 0.8, "label_smoothing": 0.1, "precision": "bf16"},
        {"optimizer.name": "sgd", "optimizer.options.momentum": 0.8, "optimizer.clip": 1.0},
        {"compile": True, "compile_options.backend": "eager"},
        {"model.passes": "slim{ratio=0.5}"},
        {"optimizer.options.layer_decay": 0.75},
    ],
    ids=["mixup in bf16", "clipped SGD", "compiled", "passes", "layer decay"],
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_every_way_to_train_grows(tiny: Tiny, watcher: Any, changes: dict[str, Any]) -> None:
    run = Run(tiny({**NEURONS, **changes}))
    run.train(watcher)
    assert len(watcher.events) == 2
    assert run.done


def test_a_model_of_ones_own_trains_on_series(tiny: Tiny, watcher: Any) -> None:
    changes = {
        "data.source": "mnist1d",
        "data.images": 512,
        "model": {"name": "torchvision.ops:MLP", "arguments": {"in_channels": 40, "hidden_channels": [16, 10]}},
    }
    with pytest.raises(SettingsError, match=r"the data have 10 classes, and the model returns \(2, 1, 1, 10\)"):
        Run(tiny(changes))
    changes["model"] = {
        "name": "timm:vit_tiny_patch16_224",
        "arguments": {
            "img_size": (1, 40),
            "patch_size": (1, 8),
            "in_chans": 1,
            "num_classes": 10,
            "embed_dim": 16,
            "depth": 2,
            "num_heads": 2,
        },
    }
    run = Run(tiny(changes))
    run.train(watcher)
    assert run.batches.image_shape == (1, 1, 40)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.name": "vit"}, "'vit' is no model; write timm:NAME, or MODULE:CALLABLE"),
        ({"model.name": "nowhere:make"}, r"model.name: it cannot be made \(No module named 'nowhere'\)"),
        ({"model.name": "builtins:dict", "model.arguments": {}}, "it is a dict, not an nn.Module"),
        ({"model.arguments.num_classes": 5}, "the data have 10 classes, and the model returns"),
        ({"optimizer.name": "adan2"}, "optimizer 'adan2': .*list_optimizers"),
        ({"device": "cuda:99"}, "device 'cuda:99'"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_the_name_of_the_setting(
    tiny: Tiny, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        Run(tiny(changes))


def test_a_loss_that_is_not_finite_ends_the_run_and_says_where(tiny: Tiny, watcher: Any) -> None:
    with pytest.raises(DivergenceError, match=r"step \d: the loss is nan: the first"):
        Run(tiny({"optimizer.rate": 1e30})).train(watcher)
