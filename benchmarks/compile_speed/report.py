"""The page that shows what was measured."""

import json
from collections.abc import Iterable
from pathlib import Path

TITLES = {
    "step_time": "Step time over FLOPs (DeiT-S, 224 pixels, inductor)",
    "compile_time": "Compile time (12 blocks, DeiT-Ti, inductor, empty caches)",
    "events": "Growth events in one run (a transformer of 12 small blocks)",
    "rewriting": "Rewriting",
    "memory": "Memory at growth (DeiT-S)",
}
NOTES = {
    "step_time": "A step is forward and backward, in training mode, compiled by `fxgrow.compile`. The figure is the "
    "ratio of step times, the median over pairs of steps of the grown model and of the base, over the ratio of FLOPs, "
    "those of all matrix products, forward and backward.",
    "compile_time": "What the first forward and backward pass takes longer than a later one, in a process of its own "
    "that finds no cache; medians. Before the clock starts, one small model is compiled: torch probes the processor "
    "and compiles its headers once on each machine. Equal kernels of equal blocks go to the C++ compiler once in "
    "either way, so what is spent there is spent by both; by block saves the rest.",
    "events": "Every event grows two equal blocks in the same way, at one map each, by the operators `serial`, "
    "`branch` and `gated` in turn.",
    "rewriting": "`fxgrow.grow` from scores to the grown GraphModule: plan, rewrite, shapes, checks. The least time of "
    "some calls.",
    "memory": "The peak of what torch's allocator gives out during `fxgrow.grow`, eigenvectors at hand. The process's "
    "own peak (resident set) holds the graph too.",
}


def page(results: Path, sections: Iterable[str]) -> str:
    """Return the page in Markdown, from the rows of the sections that were run."""
    lines = [
        "# Compiling and growing, measured",
        "",
        "Written by `python benchmarks/compiling.py --report docs/compile_benchmark.md`. Ratios are within one run.",
        "The scores that growth goes by are random numbers here; `benchmarks/curvature.py` measures what scores cost.",
    ]
    for section in sections:
        path = results / f"{section}.json"
        if not path.exists():
            continue
        content = json.loads(path.read_text())
        quick = " (quick: small sizes)" if content["quick"] else ""
        lines += ["", f"## {TITLES[section]}{quick}", "", NOTES[section], "", f"{content['machine']}.", ""]
        lines += ["| what | measured | target |", "|---|---|---|"]
        lines += [f"| {row['what']} | {row['value']} | {row['target']} |" for row in content["rows"]]
    return "\n".join(lines) + "\n"
