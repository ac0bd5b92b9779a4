"""Random networks through random sequences of rewrites: does the function ever change?

    python benchmarks/fuzz.py                      # 10,000 networks, 23 minutes on one core
    python benchmarks/fuzz.py --networks 400 --jobs 2
    python benchmarks/fuzz.py --report docs/fuzz.md   # write the page too

Each network is a random graph (`fxgrow.testing.graph_modules`), traced and sent through up to eight random passes, its
parameters moved before each. Across each pass outputs, gradients of the old parameters and BatchNorm statistics are
compared in float64, in train and eval mode, at two batch sizes. A violation is shrunk by hypothesis and printed so that
it can be pasted into a test.
"""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from measuring.machine import Row, describe, row, table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

TOLERANCE = 1e-10  #: that of `fxgrow.verify` in float64
INTRODUCTION = """\
# Random networks, random rewrites

Written by `python benchmarks/fuzz.py --report docs/fuzz.md`. Each network is a random graph, traced and sent through a
sequence of up to eight passes drawn at random from those that are registered, with parameters moved before each. Across
each pass outputs, gradients of the old parameters and BatchNorm statistics are compared in float64, in train and eval
mode, at two batch sizes. A pass may refuse where a network has no place for it, if it says why."""
CHUNK = 100  #: networks that one process tries in one go


@dataclass
class Tally:
    """What some networks gave."""

    networks: int = 0
    passes: Counter[str] = field(default_factory=Counter)
    refusals: int = 0
    largest: float = 0.0  #: largest relative difference
    violations: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Add what other networks gave."""
        self.networks += other.networks
        self.passes += other.passes
        self.refusals += other.refusals
        self.largest = max(self.largest, other.largest)
        self.violations += other.violations


def try_networks(count: int, seed: int) -> Tally:
    """Try `count` random networks; a violation ends the run early."""
    import hypothesis
    import torch
    from hypothesis import strategies as st

    from fxgrow.testing import RandomNetwork, graph_modules, rewrite_at_random

    torch.set_num_threads(1)
    tally = Tally()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(graph_modules(), st.data())
    def keeps_the_function(drawn: tuple[RandomNetwork, tuple[torch.Tensor, ...]], data: st.DataObject) -> None:
        rewritten = rewrite_at_random(data.draw, *drawn)
        tally.networks += 1
        tally.passes.update(applied.name for applied in rewritten.passes)
        tally.refusals += len(rewritten.refusals)
        tally.largest = max(tally.largest, rewritten.largest_relative)

    try:
        keeps_the_function()
    except Exception as error:  # whatever it was, it is a finding; the notes hold the network
        tally.violations.append("\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])]))
    return tally


def run(networks: int, jobs: int, seed: int, console: Console) -> Tally:
    """Try all networks in chunks, spread over processes, and show what was found; after Ctrl-C return what was done."""
    chunks = [min(CHUNK, networks - start) for start in range(0, networks, CHUNK)]
    columns = (
        TextColumn("networks"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    total = Tally()
    with (
        Progress(*columns, console=console) as progress,
        ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        task = progress.add_task("", total=networks)
        futures = {pool.submit(try_networks, size, seed + index): size for index, size in enumerate(chunks)}
        try:
            for future in as_completed(futures):
                found = future.result()
                total.add(found)
                for violation in found.violations:
                    console.print(violation, markup=False)
                progress.update(task, advance=futures[future], description=f"{len(total.violations)} violations")
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            console.print("interrupted: what follows is of the networks that were done")
    return total


def rows(tally: Tally, seconds: float) -> list[Row]:
    """Return what was found, as the rows of a table."""
    return [
        row("networks", f"{tally.networks:,}", "10,000"),
        row(f"violations of {TOLERANCE:g}", str(len(tally.violations)), "0"),
        row("largest relative difference", f"{tally.largest:.2g}", f"at most {TOLERANCE:g}"),
        *(row(f"passes: `{name}`", f"{count:,}") for name, count in sorted(tally.passes.items())),
        row("passes in all", f"{tally.passes.total():,}"),
        row("refused by a pass, with a reason", f"{tally.refusals:,}"),
        row("minutes", f"{seconds / 60:.1f}"),
    ]


def page(found: list[Row], violations: list[str]) -> str:
    """Return the page in Markdown."""
    parts = [INTRODUCTION, f"{describe()}.", table(found), *(f"```\n{violation}\n```" for violation in violations)]
    return "\n\n".join(parts) + "\n"


def show(found: list[Row], console: Console) -> None:
    """Print the table."""
    columns = Table("what", "measured", "target")
    for line in found:
        columns.add_row(*(str(line[key]).replace("`", "") for key in ("what", "value", "target")))
    console.print(columns)


def main() -> int:
    """Run from the command line; the exit status is 1 if there was a violation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, metavar="PAGE", help="write the page after the run")
    args = parser.parse_args()
    console = Console()
    start = time.perf_counter()
    tally = run(args.networks, args.jobs, args.seed, console)
    found = rows(tally, time.perf_counter() - start)
    show(found, console)
    if args.report:
        args.report.write_text(page(found, tally.violations), encoding="utf-8")
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
