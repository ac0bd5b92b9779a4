"""Grown models under torch.compile: step time, compile time, growth events, rewriting and memory. Ratios in one run.

    python benchmarks/compiling.py                                   # everything; about 20 minutes on two quiet cores
    python benchmarks/compiling.py --sections rewriting memory       # some of it
    python benchmarks/compiling.py --quick                           # small sizes, to see that it works
    python benchmarks/compiling.py --report docs/compile_benchmark.md

Each section runs in a process of its own and writes its rows to runs/compiling/. Extra: timm. Scores are random
numbers here: what an analysis costs is measured by benchmarks/curvature.py.
"""

import sys
from pathlib import Path

from measuring.sections import Benchmark

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
    "either way, so what is spent there is spent by both; by block saves the rest. One kernel takes half a second of "
    "processor time there, most of it for torch's headers: the 16 kernels of the first compile are worth the target on "
    "two cores by themselves, and one block that grew by `serial` has 11 new ones.",
    "events": "Every event grows two equal blocks in the same way, at one map each, by the operators `serial`, "
    "`branch` and `gated` in turn.",
    "rewriting": "`fxgrow.grow` from scores to the grown GraphModule: plan, rewrite, shapes, checks. The least time of "
    "some calls.",
    "memory": "The peak of what torch's allocator gives out during `fxgrow.grow`, eigenvectors at hand. The process's "
    "own peak (resident set) holds the graph too.",
}
INTRODUCTION = """\
# Compiling and growing, measured

Written by `python benchmarks/compiling.py --report docs/compile_benchmark.md`. Ratios are within one run.
The scores that growth goes by are random numbers here; `benchmarks/curvature.py` measures what scores cost."""
BENCHMARK = Benchmark(
    script=__file__,
    package="compile_speed",
    description=__doc__,
    results=Path("runs/compiling"),
    titles=TITLES,
    introduction=INTRODUCTION,
    notes=NOTES,
    ignored_warnings=("The .grad attribute of a Tensor that is not a leaf",),
    environment={"KINETO_LOG_LEVEL": "5"},
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
