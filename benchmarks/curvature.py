"""The curvature engine: what its scores cost, how exact they are, and how stable they are. Ratios are within one run.

    python benchmarks/curvature.py                                   # everything; about an hour on two quiet cores
    python benchmarks/curvature.py --sections throughput solver      # some of it
    python benchmarks/curvature.py --quick                           # small sizes, to see that it works
    python benchmarks/curvature.py --report docs/curvature_benchmark.md

Each section runs in a process of its own and writes its rows to runs/curvature/. Extras: timm, data, spectra; the
comparison takes what is installed of hessian-eigenthings and PyHessian.
"""

import sys
from pathlib import Path

from measuring.sections import Benchmark

TITLES = {
    "cost": "Cost, in training steps of the same batch (DeiT-S)",
    "memory": "Memory (DeiT-S, 32 samples at 224)",
    "event": "A growth event's analysis beside an epoch (DeiT-S)",
    "solver": "Solver error, float32 against explicit float64 matrices",
    "throughput": "Throughput over plain matrix products of the same sizes (32 samples of DeiT-S)",
    "libraries": "The same work by other libraries (a small vision transformer)",
    "scaling": "How the cost grows",
    "stability": (
        "Stability of the ranking: rank correlation between two disjoint sets of samples, of values "
        "(of held-out values), by samples in each set; models trained on MNIST digits"
    ),
}
INTRODUCTION = """\
# The curvature engine, measured

Written by `python benchmarks/curvature.py --report docs/curvature_benchmark.md`. Ratios are within one run.
Cost is that of `fxgrow.analyze` by default, held-out values and error bars included, with one capture of all
sites; each further group of sites that `max_memory` asks for costs another one."""
NOTES = {
    "cost": "Processor time of one thread, the least of three rounds. Networks of two and of four of the blocks are\n"
    "measured, untrained, on 32 samples of noise: blocks but the last cost the same, and in the last one few\n"
    "positions carry everything."
}
BENCHMARK = Benchmark(
    script=__file__,
    package="curvature_engine",
    description=__doc__,
    results=Path("runs/curvature"),
    titles=TITLES,
    introduction=INTRODUCTION,
    notes=NOTES,
    ignored_warnings=(
        "scores from fewer than",
        ".torch.jit.script. is deprecated",
        "Using backward.. with create_graph=True",
    ),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
