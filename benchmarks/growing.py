"""What growing costs a training, part by part, in training steps. Ratios in one run.

    python benchmarks/growing.py                                     # everything; about 15 minutes of a processor
    python benchmarks/growing.py --sections step                     # some of it
    python benchmarks/growing.py --quick                             # small sizes, to see that it works
    python benchmarks/growing.py --report docs/growing_benchmark.md

Each section runs in a process of its own and writes its rows to runs/growing/. Extra: train.
"""

import sys
from pathlib import Path

from measuring.sections import Benchmark

TITLES = {
    "deit_ti": "An event of DeiT-Ti (64 pixels)",
    "compilation": "Compilation behind an event (DeiT-Ti, 64 pixels, inductor, no cache)",
    "deit_s": "An event of DeiT-S from half its width (224 pixels), and the paper's schedule",
    "step": "A step between two events",
    "digits": "The events of a whole run",
}
_EVENT = (
    "One real event of a `Grower` with AdamW and an average of the weights, by eigen-scores and the operator `serial`, "
    "at the sites that the paper grows. Each part is the time spent in it, less that of the parts inside it, in "
    "training steps: forward and backward pass and the optimizer, of the batch that is named. Nothing is compiled here."
)
NOTES = {
    "deit_ti": _EVENT,
    "deit_s": f"{_EVENT} The paper's training is 300 epochs of 126,689 images, with 9 events. Extrapolated: what reads "
    "samples grows with their number, the rest does not; all events are taken for equal, and so are all steps, both of "
    "the model at its start. Compilation is not in it.",
    "compilation": "All 48 sites grow, so that all 12 blocks change, in one new structure. The paper's training has "
    "590,000 steps of 64 images: 9 events like this one compile for less than a thousandth of it.",
    "step": "The same loop with and without fxgrow, both with AdamW: the model of timm itself, and the traced one in a "
    "`Grower` that is asked whether growth is due. The median over pairs of neighbouring steps, in turn the one and "
    "the other first. Compiled steps are in `docs/compile_benchmark.md`.",
    "digits": "`fxgrow train digits`, whose neurons grow by scores, and the grown half of `fxgrow demo`, whose blocks "
    "wake, as they stand: the time of the events, and what the first step after each takes longer than the usual one, "
    "over all of the time that training took, tests included; on one thread. Neither recipe compiles: at this size "
    "that costs more than it saves.",
}
INTRODUCTION = """\
# What growing costs, measured

Written by `python benchmarks/growing.py --report docs/growing_benchmark.md`. Ratios are within one run, of processor
time on one thread: the machine did much other work meanwhile (a load of 15 to 30 on two cores), which wall time would
count and this does not, but for what the others' work costs in caches."""
BENCHMARK = Benchmark(
    script=__file__,
    package="growing_cost",
    description=__doc__,
    results=Path("runs/growing"),
    titles=TITLES,
    introduction=INTRODUCTION,
    notes=NOTES,
    ignored_warnings=("The .grad attribute of a Tensor that is not a leaf", "scores from fewer than"),
    # compilers that this process waits for, whose time is known then
    environment={
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    },
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
