"""Kill a run that grows, with SIGKILL at random moments, and resume it: do its weights come out as if nothing had been?

    python benchmarks/faults.py                # 20 runs, each killed once or more, in about two minutes
    python benchmarks/faults.py --kills 3
    python benchmarks/faults.py --run FOLDER   # the run itself, as a process of its own: it goes on if it can

The run trains a small model with dropout, BatchNorm, a scheduler, an average of the weights and shuffled data; it grows
twice and writes a checkpoint after each step. It says what it begins to do, so that half of the kills fall into growth
events and half into the writing of checkpoints; how far into them is left to chance.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

STEPS, EVENTS = 12, (4, 8)
#: How far into a phase a kill falls at most, in seconds: about as long as the phase takes.
REACH = {
    "growing": 0.05,
    "saving": 0.004,
}  #: seconds after the beginning of a phase, shorter than what is left of the run


def run(folder: Path, say: Callable[[str], None] = lambda phase: None) -> str:
    """Train to the end, from the newest checkpoint in `folder` if there is one; return the checksum of all weights."""
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.optim.swa_utils import AveragedModel

    import fxgrow
    from fxgrow.files import Checkpointer
    from fxgrow.files.checksums import checksum_of_state
    from fxgrow.testing import Draws

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 16), nn.GELU()
    traced = fxgrow.trace(nn.Sequential(*layers, nn.Linear(16, 3)), torch.ones(2, 8))
    images = Draws(dtype=torch.float32).normal(256, 8)
    labels = images[:, :3].argmax(1)
    order = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(traced.parameters(), lr=1e-2)
    scheduler, ema = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS), AveragedModel(traced)
    grower = fxgrow.Grower(
        traced,
        F.cross_entropy,
        optimizer,
        scheduler=scheduler,
        ema=ema,
        also={"order": order},
        at=EVENTS,
        new_warmup=3,
        compile=False,
    )
    checkpoints = Checkpointer(folder, keep=2)
    found = checkpoints.load()
    if found is not None:
        grower.load_state_dict(found.state)
    for step in range(grower.position.get("step", 0), STEPS):
        if grower.due(step):
            say("growing")
            grower.grow([(images, labels)], context={"step": step})
        chosen = torch.randperm(256, generator=order)[:32]
        optimizer.zero_grad()
        F.cross_entropy(grower.model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
        scheduler.step()
        ema.update_parameters(grower.model)
        grower.position = {"step": step + 1}
        say("saving")
        checkpoints.save(grower.state_dict(), step=step + 1)
    say("done")
    return checksum_of_state([grower.model.state_dict(), ema.state_dict()])


@dataclass(frozen=True)
class Trial:
    """One run that was killed and resumed until it came to its end."""

    killed_in: tuple[str, ...]  #: the phases in which it was killed, in order
    checksum: str


def start(folder: Path) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    """Start the run in a process that has done nothing but import, and return it and what it says."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fxgrow.training", "fxgrow.files", "fxgrow.testing"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(folder, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _report(folder: Path, connection: Connection) -> None:
    connection.send(run(folder, lambda phase: connection.send(phase)))


def undisturbed(folder: Path) -> str:
    """Return the checksum of a run that nobody killed."""
    return _to_its_end(*start(folder))


def kill_and_resume(folder: Path, chance: random.Random, phases: Sequence[str]) -> Trial:
    """Kill the run once in some phase after the other, the first time that it comes to it or later; then let it end."""
    killed = []
    for phase in phases:
        process, said = start(folder)
        skipped = chance.randrange(2 if phase == "growing" else STEPS // 2)
        for heard in iter(said.recv, "done"):
            skipped -= heard == phase
            if skipped < 0:
                time.sleep(chance.uniform(0, REACH[phase]))
                os.kill(process.pid or 0, signal.SIGKILL)
                killed.append(phase)
                break
        process.join()
    return Trial(tuple(killed), _to_its_end(*start(folder)))


def _to_its_end(process: multiprocessing.process.BaseProcess, said: Connection) -> str:
    for _ in iter(said.recv, "done"):
        pass
    checksum: str = said.recv()
    process.join()
    return checksum


def trials(count: int, seed: int, folder: Path) -> tuple[str, list[Trial]]:
    """Return the checksum of the undisturbed run, and runs that were killed."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        phases = ["growing", "saving"][number % 2 :][: 1 + (number % 3 == 0)]
        made.append(kill_and_resume(folder / str(number), chance, phases))
    return undisturbed(folder / "undisturbed"), made


def main() -> int:
    """Run the trials and print what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="runs that are killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="train in this folder, and print the checksum of the weights")
    arguments = parser.parse_args()
    if arguments.run is not None:
        print(run(arguments.run))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        expected, made = trials(arguments.kills, arguments.seed, Path(folder))
    for trial in made:
        print(f"killed in {', '.join(trial.killed_in):<18} {'equal' if trial.checksum == expected else 'DIFFERENT'}")
    equal = sum(trial.checksum == expected for trial in made)
    print(f"{equal} of {len(made)} runs have bit for bit the weights of the run that was not killed")
    return 0 if equal == len(made) else 1


if __name__ == "__main__":
    sys.exit(main())
