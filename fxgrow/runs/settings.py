"""What a run can be asked for: plain data, one table of a recipe each. Nothing here imports torch."""

import math
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from fxgrow.errors import SettingsError

Count = Annotated[int, Meta(ge=1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # as torch takes it
Rate = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
NotNegative = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
Share = Annotated[float, Meta(ge=0, le=1)]
Part = Annotated[float, Meta(gt=0, le=1)]


@dataclass(frozen=True)
class Data:
    """``[data]``: what is trained on, as `fxgrow.data.open_source` opens it."""

    source: str = "mnist5k"
    batch_size: Count = 64
    image_size: Count | None = None  #: height and width to resize to; without, the source's own
    channels: Literal[1, 3] | None = None
    images: Count | None = None  #: training images used; without, all
    workers: Annotated[int, Meta(ge=0)] = 0  #: processes that decode and augment, where the data is not in memory
    seed: Seed | None = None  #: of the split, where the source has none of its own; without, the run's


@dataclass(frozen=True)
class Augmentation:
    """``[augmentation]``: what happens to training images, and to no others."""

    kind: Literal["none", "shift", "timm"] = "none"  #: `shift`: small rotations and shifts, for digits
    options: dict[str, Any] = field(default_factory=dict)  #: arguments of timm.data.create_transform
    mixup: NotNegative = 0.0  #: alpha of mixup (timm.data.Mixup)
    cutmix: NotNegative = 0.0  #: alpha of CutMix


@dataclass(frozen=True)
class Model:
    """``[model]``: what is trained."""

    name: str = "timm:vit_tiny_patch16_224"  #: ``timm:NAME``, or ``MODULE:CALLABLE`` for a model of your own
    arguments: dict[str, Any] = field(default_factory=dict)
    passes: str = ""  #: a pipeline that the traced model goes through first, as in ``slim{ratio=0.5}``


@dataclass(frozen=True)
class Optimizer:
    """``[optimizer]``: as timm's ``create_optimizer_v2`` makes it; vectors are not decayed."""

    name: str = "adamw"
    rate: Rate = 1e-3  #: learning rate at the peak
    weight_decay: NotNegative = 0.05
    options: dict[str, Any] = field(default_factory=dict)  #: more of its arguments, as in ``layer_decay = 0.75``
    clip: Rate | None = None  #: largest norm of the gradient


@dataclass(frozen=True)
class Schedule:
    """``[schedule]``: the learning rate over the steps (`fxgrow.training.CosineCycles`)."""

    cycles: Annotated[tuple[Rate, ...], Meta(min_length=1)] = (1.0,)  #: the peak of each, in units of the rate
    warm_up: Share = 0.1  #: share of a cycle
    hold: Share = 0.0  #: share of a cycle, its warm-up included, before the rate falls
    last: Share = 0.01  #: what is left of a cycle's peak at its end


@dataclass(frozen=True)
class Growth:
    """``[growth]``: growth of neurons, by `fxgrow.Grower`. When: `at`, or `start` and `every`, or `events`."""

    budget: int | float = 0.5  #: what all events may add: a share of the parameters, or a number of them
    events: Count = 3  #: spread evenly over the training (`fxgrow.training.schedule.growth_epochs`)
    start: Count | None = None  #: the epoch before which the first event comes, counted from 0
    every: Count | None = None  #: epochs from one event to the next
    at: tuple[Count, ...] = ()  #: the epochs before which the model grows
    score: str = "eigen"
    operator: str = "serial"
    allocation: str = "even"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    samples: Annotated[int, Meta(ge=2)] = 512  #: that each analysis reads at most
    new_lr_factor: NotNegative = 1.0  #: the learning rate of new parameters over that of their group
    new_warmup: Annotated[int, Meta(ge=0)] = 0  #: steps over which it rises to that

    def __post_init__(self) -> None:
        if not 0 < self.budget < math.inf:
            fix = "give a share of the parameters, as 0.5, or a number of them"
            raise SettingsError(f"{self.budget} is no budget", where="growth.budget", fix=fix)
        if (self.start is None) != (self.every is None) or (self.at and self.every):
            fix = "give at, or start and every, or events alone"
            raise SettingsError("its schedule is said by halves, or twice", where="growth", fix=fix)


@dataclass(frozen=True)
class Stages:
    """``[stages]``: growth inside the model, by `fxgrow.Progressive`. The last stage, all of it, is not named."""

    depth: tuple[Part, ...] = (0.5,)  #: share of the blocks that runs in each stage
    width: tuple[Part, ...] = ()  #: share of the hidden units and heads; without, all
    at: tuple[Part, ...] = ()  #: when each stage ends, in shares of the training; without, each one doubles it

    def __post_init__(self) -> None:
        for name, values in (("width", self.width), ("at", self.at)):
            if values and len(values) != len(self.depth):
                fix = f"give {len(self.depth)}, one for each stage before the last"
                raise SettingsError(f"it has {len(values)} values", where=f"stages.{name}", fix=fix)
        if list(self.times) != sorted(set(self.times)):
            raise SettingsError(f"{self.at} do not ascend", where="stages.at", fix="sort them, each once")

    @property
    def times(self) -> tuple[float, ...]:
        """When each stage ends, in shares of the training.

        The rule, where nothing is said, is that all stages before one are as long as it is, and the last half is the
        whole model's: for three stages before it 1/8, 1/4 and 1/2.
        """
        return self.at or tuple(0.5 ** (len(self.depth) - index) for index in range(len(self.depth)))


@dataclass(frozen=True)
class Settings:
    """A run. Fields are tables of a recipe, or stand at its top."""

    epochs: Count = 40
    seed: Seed = 0
    device: str = "auto"  #: as torch spells it; `auto` is the GPU, if there is one
    precision: Literal["fp32", "bf16"] = "fp32"
    label_smoothing: Share = 0.0
    ema: Share = 0.0  #: decay of an average of the weights, which is then what is tested and saved; 0 for none
    tensorboard: bool = False  #: write the metrics for TensorBoard too
    compile: bool = True  #: block by block (`fxgrow.compile`)
    compile_options: dict[str, Any] = field(default_factory=dict)  #: of ``torch.compile``, as in ``backend = "eager"``
    data: Data = field(default_factory=Data)
    augmentation: Augmentation = field(default_factory=Augmentation)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    growth: Growth | None = None  #: without the table nothing grows
    stages: Stages | None = None

    def __post_init__(self) -> None:
        if self.growth and self.stages:
            fix = "leave out [growth] or [stages]"
            raise SettingsError("a run grows neurons or wakes blocks, not both", where="stages", fix=fix)
        if self.growth and max(self.growth.at, default=0) >= self.epochs:
            last = max(self.growth.at)
            what = f"the model would grow before epoch {last}, counted from 0, and the run has {self.epochs}"
            raise SettingsError(what, where="growth.at", fix="train longer, grow earlier, or say how many events")
        if self.stages and self.model.passes:
            what = "blocks wake inside the model as its class makes it, and no pass rewrites that"
            raise SettingsError(what, where="model.passes", fix="leave out model.passes or [stages]")
        if self.data.images is not None and self.data.images < self.data.batch_size:
            what = f"{self.data.images} images fill no batch of {self.data.batch_size}"
            raise SettingsError(what, where="data.images", fix="take more")
