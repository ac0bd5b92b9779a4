"""`fxgrow doctor`: what this machine has, and whether the parts that fxgrow stands on work here."""

import argparse
import platform
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

from fxgrow.cli.parser import add_verb
from fxgrow.errors import first_line

if TYPE_CHECKING:
    from fxgrow.cli.parser import Verbs

#: package, and the extra of fxgrow that brings it; without an extra fxgrow cannot do without
_PACKAGES = {
    "torch": "", "networkx": "", "rich": "", "numpy": "", "msgspec": "",
    "timm": "timm", "torchvision": "timm", "mlxtend": "data", "mnist1d": "data", "scikit-learn": "data",
    "tomli-w": "train", "tensorboard": "tensorboard", "matplotlib": "demo", "scipy": "spectra",
    "transformers": "hf", "onnx": "export", "safetensors": "export",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    state: Literal["ok", "absent", "fails"]
    detail: str


def add_parser(verbs: "Verbs") -> None:
    """Add the verb."""
    add_verb(
        verbs,
        "doctor",
        run,
        summary="say what is installed and whether torch.compile works here",
        description="A small model is traced, grown, verified and compiled. The exit status is 1 if something that "
        "fxgrow needs does not work.",
        example="fxgrow doctor\nfxgrow doctor --json",
    )


def run(args: argparse.Namespace) -> int:
    """Print what was found."""
    from fxgrow.cli.output import tell

    findings = list(examine())
    width = max(len(finding.subject) for finding in findings)
    lines = (f"{finding.subject:<{width}}  {finding.state:<6}  {finding.detail}" for finding in findings)
    tell("\n".join(lines), findings, args)
    return int(any(finding.state == "fails" for finding in findings))


def examine() -> Iterator[Finding]:
    """Look at the versions, the devices, the compiler, and the main job on a tiny model."""
    from fxgrow import __version__

    yield Finding("fxgrow", "ok", __version__)
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package, extra in _PACKAGES.items():
        yield _package(package, extra)
    yield from _devices()
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    detail = compiler or "torch.compile needs one on the CPU; without, fxgrow runs eager and says so"
    yield Finding("C++ compiler", "ok" if compiler else "absent", detail)
    yield from _main_job()


def _package(name: str, extra: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        wanted = f"pip install 'fxgrow[{extra}]'" if extra else "pip install fxgrow"
        return Finding(name, "absent" if extra else "fails", f"not installed: {wanted}")


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding("CPU", "ok", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for index in range(torch.cuda.device_count()):
        yield Finding(f"cuda:{index}", "ok", torch.cuda.get_device_name(index))


def _main_job() -> Iterator[Finding]:
    """Trace, grow, verify and compile a tiny model; the first failure ends it."""
    import torch
    from torch import nn

    import fxgrow

    step = "trace"
    try:
        inputs = torch.linspace(-1, 1, 64).reshape(8, 8)
        traced = fxgrow.trace(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2)), inputs)
        yield Finding(step, "ok", f"{len(traced.graph.nodes)} nodes")
        step = "grow"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of so few samples
            scores = fxgrow.analyze(traced, nn.functional.mse_loss, [(inputs, inputs[:, :2])])
        grown = fxgrow.grow(traced, scores, budget=1.0)
        found = fxgrow.verify(traced, grown)
        yield Finding(step, "ok", f"largest relative difference {found.largest_relative:.1e}")
        step = "torch.compile"
        torch.testing.assert_close(torch.compile(grown)(inputs), grown(inputs))
        yield Finding(step, "ok", "inductor, equal to eager")
    except Exception as error:  # whatever fails here is what the user wants to know
        yield Finding(step, "fails", f"{type(error).__name__}: {first_line(error)[:120]}")
