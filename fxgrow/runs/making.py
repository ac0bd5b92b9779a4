"""The parts of a run that settings name: the model, the loss, the optimizer, the schedule."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fxgrow.errors import SettingsError, first_line
from fxgrow.execution.preservation import preserved
from fxgrow.execution.randomness import preserved_randomness
from fxgrow.execution.ranks import Ranks
from fxgrow.files.origins import create_timm_model
from fxgrow.passes import parse
from fxgrow.record.record import Origin
from fxgrow.runs.processes import own_gpu
from fxgrow.runs.settings import Settings
from fxgrow.tracing import trace
from fxgrow.training import CosineCycles, growth_epochs

_EXAMPLES = 2  #: images that a model is traced on


def find_device(settings: Settings) -> torch.device:
    """Return the device of a run, in this process.

    Raises:
        SettingsError: If there is no such device here, or all processes would take one GPU.
    """
    if settings.device in ("auto", "cuda") and torch.cuda.is_available():
        return own_gpu()
    if settings.device == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(settings.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        fix = "write auto, cpu, or a device that torch has here"
        raise SettingsError(first_line(error), where=f"device {settings.device!r}", fix=fix) from error
    if device.index is not None and Ranks().count > 1:
        what = "all processes of the run would take that one"
        raise SettingsError(what, where=f"device {settings.device!r}", fix="write auto: each takes its own")
    return device


def examples(shape: Sequence[int]) -> Tensor:
    """Return images to trace a model on."""
    return torch.randn(_EXAMPLES, *shape, generator=torch.Generator().manual_seed(0))


def build_model(settings: Settings) -> nn.Module:
    """Build the model with random weights from the run's seed; the global random state is not touched.

    Raises:
        SettingsError: If there is no such model.
        FileError: If timm cannot build it.
    """
    source, _, name = settings.model.name.partition(":")
    if not source or not name:
        fix = "write timm:NAME, or MODULE:CALLABLE for a model of your own"
        raise SettingsError(f"{settings.model.name!r} is no model", where="model.name", fix=fix)
    with preserved_randomness(settings.seed):
        if source == "timm":
            return create_timm_model(name, settings.model.arguments, where="model")
        return _import_model(source, name, settings)


def _import_model(module: str, name: str, settings: Settings) -> nn.Module:
    """Import and call what ``MODULE:CALLABLE`` names, with the model's arguments."""
    if os.getcwd() not in sys.path:  # as `python -m` does, and console scripts do not
        sys.path.insert(0, os.getcwd())
    try:
        made = getattr(importlib.import_module(module), name)(**settings.model.arguments)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        fix = "write MODULE:CALLABLE, as in my_project.models:make_mlp, and its arguments"
        raise SettingsError(f"it cannot be made ({first_line(error)})", where="model.name", fix=fix) from error
    if not isinstance(made, nn.Module):
        what = f"it is a {type(made).__qualname__}, not an nn.Module"
        raise SettingsError(what, where="model.name", fix="let the callable return the model")
    return made


def trace_model(settings: Settings, model: nn.Module, shape: Sequence[int]) -> fx.GraphModule:
    """Trace the model on images of that shape, and send it through the passes of its settings."""
    source, _, name = settings.model.name.partition(":")
    origin = Origin("timm", name, settings.model.arguments) if source == "timm" else None
    traced = trace(model, examples(shape), origin=origin)
    if settings.model.passes:
        traced = parse(settings.model.passes)(traced).graph_module
    return traced


def check_classes(model: nn.Module, example: Tensor, classes: int) -> None:
    """Check that a model tells the classes of the data apart.

    Raises:
        SettingsError: If it has fewer outputs.
    """
    with preserved(model), torch.no_grad():
        output = model.eval()(example)
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < classes:
        what = f"the data have {classes} classes, and the model returns {tuple(getattr(output, 'shape', ()))}"
        fix = f"for a model of timm, set model.arguments.num_classes={classes}"
        raise SettingsError(what, where="model", fix=fix)


def make_loss(settings: Settings) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of labels: mean cross entropy, with the settings' label smoothing."""
    if not settings.label_smoothing:
        return F.cross_entropy
    return partial(F.cross_entropy, label_smoothing=settings.label_smoothing)


def make_optimizer(settings: Settings, model: nn.Module, trained: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer.

    Args:
        settings: The run.
        model: The model as it was built, off which timm reads the layers of ``layer_decay``.
        trained: What is trained, with the same parameters.

    Raises:
        SettingsError: If timm has none of that name, or refuses the options.
    """
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]

    chosen = settings.optimizer
    layered = chosen.options.get("layer_decay") is not None
    if layered and settings.model.passes:
        fix = "leave out layer_decay, or model.passes"
        raise SettingsError("timm reads layers off the model before its passes", where="optimizer.options", fix=fix)
    try:
        made: torch.optim.Optimizer = create_optimizer_v2(
            model if layered else trained,
            chosen.name,
            lr=chosen.rate,
            weight_decay=chosen.weight_decay,
            **chosen.options,
        )
    except (TypeError, ValueError, AssertionError, KeyError, RuntimeError) as error:
        fix = "timm.optim.list_optimizers() lists the names; options are arguments of create_optimizer_v2"
        raise SettingsError(first_line(error), where=f"optimizer {chosen.name!r}", fix=fix) from error
    return made


def make_schedule(settings: Settings, optimizer: torch.optim.Optimizer, steps: int) -> CosineCycles:
    """Return the learning-rate schedule of a run of so many steps."""
    chosen = settings.schedule
    return CosineCycles(
        optimizer, steps, peaks=chosen.cycles, warm_up=chosen.warm_up, hold=chosen.hold, last=chosen.last
    )


def make_average(settings: Settings, trained: nn.Module) -> AveragedModel | None:
    """Return an exponential average of the weights, if the settings ask for one."""
    if not settings.ema:
        return None
    return AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))  # type: ignore[no-untyped-call]


def growth_schedule(settings: Settings) -> tuple[int, ...]:
    """Return the epochs before which neurons grow; none without a growth table.

    Raises:
        PlanError: If the events do not fit into the training.
    """
    growth = settings.growth
    if growth is None:
        return ()
    if growth.start is not None and growth.every is not None:
        return tuple(range(growth.start, settings.epochs, growth.every))
    return growth.at or growth_epochs(settings.epochs, growth.events)
