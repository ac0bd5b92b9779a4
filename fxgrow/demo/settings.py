"""What the demo can be asked for, checked before anything starts."""

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from fxgrow.errors import DataError, FileError, PlanError
from fxgrow.training.schedule import growth_epochs


@dataclass(frozen=True)
class Shape:
    """A vision transformer in the proportions of DeiT: heads of 32 numbers, a patch of a quarter of the image."""

    embed_dim: int = 96
    depth: int = 6
    heads: int = 3
    patch_size: int = 7


@dataclass(frozen=True)
class Settings:
    """The options of ``fxgrow demo``.

    Raises:
        FxgrowError: If an option does not fit.
    """

    epochs: int = 40
    seed: int = 0
    events: int = 3
    budget: float = 0.5  #: parameters that growth may add in all: a fraction, or a number as an int
    out: Path = Path("runs/demo")
    compare: bool = False
    compile: bool = True
    backend: str = "inductor"
    threads: int | None = None
    force: bool = False
    shape: Shape = field(default_factory=Shape)
    batch_size: int = 64
    probe_images: int = 512  #: images that each analysis reads
    images: int | None = None  #: training images used; None takes all

    def __post_init__(self) -> None:
        for name in ("epochs", "events", "batch_size", "probe_images"):
            if getattr(self, name) < 1:
                raise PlanError(f"{getattr(self, name)} is too few", where=f"--{name}", fix="give 1 or more")
        if self.threads is not None and self.threads < 1:
            raise PlanError(f"{self.threads} is too few", where="--threads", fix="give 1 or more")
        if self.images is not None and self.images < self.batch_size:
            raise DataError(f"{self.images} images fill no batch", where="images", fix="take more")
        growth_epochs(self.epochs, self.events)
        self._check_out()

    def _check_out(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise FileError("it is a file, not a folder", where=str(self.out), fix="choose another --out")
        nearest = next(path for path in (self.out, *self.out.absolute().parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise FileError(f"{nearest} cannot be written to", where=str(self.out), fix="choose another --out")
        if self.out.is_dir() and any(self.out.iterdir()) and not self.force:
            raise FileError(
                "the folder is not empty", where=str(self.out), fix="choose another --out, or overwrite with --force"
            )

    @property
    def command(self) -> str:
        """The command that repeats the run."""
        words = ["fxgrow", "demo", "--epochs", self.epochs, "--events", self.events, "--budget", self.budget]
        words += ["--seed", self.seed, "--out", self.out]
        flags = {"--compare": self.compare, "--no-compile": not self.compile}
        words += [] if self.threads is None else ["--threads", self.threads]
        return shlex.join([*map(str, words), *(flag for flag, given in flags.items() if given)])

    @property
    def schedule(self) -> tuple[int, ...]:
        """The epochs before which the model grows."""
        return growth_epochs(self.epochs, self.events)
