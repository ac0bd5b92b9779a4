"""How long `fxgrow inspect` takes from a cold start, for models of 1,000 sites and of 100,000 nodes.

Tables are written directly, since tracing models so large is not what is measured. Each command runs in a process of
its own; reported are the shortest of three runs by the clock and the processor time of that run, which another load on
the machine hardly changes. ``python benchmarks/inspecting.py`` prints a table in Markdown.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from fxgrow.files.checksums import checksum_of_tensor
from fxgrow.files.layout import FORMAT, TABLE, VERSION, checksum_of_plain
from fxgrow.files.plain import to_plain
from fxgrow.files.table import InputSpec, NodeRow, SiteRow, Table
from fxgrow.record.annotations import Annotation
from fxgrow.record.record import Record

VIEWS = ([], ["--all"], ["--view", "table", "--sort", "score"], ["--view", "graph", "--format", "svg"], ["--json"])


def write_model(path: Path, blocks: int, width: int) -> None:
    """Write a file of residual blocks of five nodes, two of them scored sites with `width` neurons."""
    table = to_plain(_table(blocks, width))
    state = {f"blocks.{block}.fc1.weight": torch.zeros(width, width) for block in range(min(blocks, 1000))}
    checksums = {TABLE: checksum_of_plain(table), **{name: checksum_of_tensor(value) for name, value in state.items()}}
    parts = {TABLE: table, "state_dict": state, "buffers": {}, "checksums": checksums}
    torch.save({"format": FORMAT, "format_version": VERSION, **parts}, path)


def _table(blocks: int, width: int) -> Table:
    draws = np.random.default_rng(0)
    rows = [_row("x", "placeholder", "x", "", (), width)]
    for block in range(blocks):
        rows += _block(f"blocks.{block}", rows[-1].name, width, draws)
    rows.append(_row("output", "output", "output", "", (rows[-1].name,), width))
    spec = InputSpec("x", {"shape": [2, width], "dtype": "float32"})
    parameters = blocks * 2 * width * (width + 1)
    return Table("Stack", "0" * 16, parameters, (spec,), tuple(rows), Record())


def _block(path: str, source: str, width: int, draws: np.random.Generator) -> Iterator[NodeRow]:
    name = path.replace(".", "_")
    yield _row(f"{name}_norm", "call_module", f"{path}.norm", "LayerNorm", (source,), width)
    yield _site(f"{name}_fc1", f"{path}.fc1", (f"{name}_norm",), width, draws)
    yield _row(f"{name}_act", "call_module", f"{path}.act", "GELU", (f"{name}_fc1",), width)
    yield _site(f"{name}_fc2", f"{path}.fc2", (f"{name}_act",), width, draws)
    yield _row(f"{name}_add", "call_function", "_operator.add", "", (source, f"{name}_fc2"), width)


def _row(name: str, op: str, target: str, kind: str, inputs: Sequence[str], width: int) -> NodeRow:
    path, module_type = (target, f"torch.nn.{kind}") if kind else ("", "")
    return NodeRow(name, op, target, path, module_type, "", tuple(inputs), "", (2, width), "float32", {}, {})


def _site(name: str, path: str, inputs: Sequence[str], width: int, draws: np.random.Generator) -> NodeRow:
    values = draws.normal(size=(3, width)).round(6)
    scores: Annotation = {
        "scores": {
            "digest": "0" * 16, "score": "eigen", "sign": -1, "matrix": "branch", "samples": 256, "reliability": 0.5,
            "eigenvalues": values[0].tolist(), "held_out": values[1].tolist(), "stderr": abs(values[2]).tolist(),
            "reached": None,
        }
    }  # fmt: skip
    parameters = {f"{path}.weight": (width, width), f"{path}.bias": (width,)}
    site = SiteRow(path, width, width, None, True, ((0, width),))
    kind = "torch.nn.modules.linear.Linear"
    return NodeRow(
        name, "call_module", path, path, kind, "", tuple(inputs), "", (2, width), "float32", parameters, scores, site
    )


def measure(path: Path, options: Sequence[str], repeats: int = 3) -> tuple[float, float]:
    """Return the least seconds by the clock, and the processor's of that run."""
    command = [sys.executable, "-m", "fxgrow", "inspect", str(path), *options]
    runs = []
    for _ in range(repeats):
        start, before = time.perf_counter(), os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        runs.append((time.perf_counter() - start, spent))
    return min(runs)


def main() -> None:
    """Print the table."""
    print("| model | file | command | seconds | processor seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for label, blocks, width in (("1,000 sites", 500, 64), ("99,997 nodes", 19_999, 4)):
            path = Path(folder) / f"{blocks}.pt"
            write_model(path, blocks, width)
            for options in VIEWS:
                clock, processor = measure(path, options)
                command = " ".join(["inspect", *options])
                size = f"{path.stat().st_size / 1e6:.0f} MB"
                print(f"| {label} | {size} | `{command}` | {clock:.2f} | {processor:.2f} |", flush=True)


if __name__ == "__main__":
    main()
