"""Write docs/ranks.md: what an event costs on many ranks, whether two agree with the formulas, and four train as one.

Run: python benchmarks/ranks.py [--output docs/ranks.md]    (a minute: two, then four processes on this machine)
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from many_ranks.check import Counted, count_on_two_ranks
from many_ranks.costs import SHAPES, Machine, Probe, Shape, event_cost
from many_ranks.training import EVENTS, STEPS, largest_differences

RANKS, TRAINING = (8, 256, 4096), 4

_PAGE = """# An event on many ranks, computed

What one growth event costs each rank, from the shapes of the sites: `python benchmarks/ranks.py` writes this page,
and the formulas stand in `benchmarks/many_ranks/costs.py`. Nothing here was measured on so many ranks.

**Assumptions.** {samples} samples of probe data on all ranks together, at least one on each; {iterations} Lanczos
iterations at all sites of all blocks; {memory} GiB of `max_memory`; every number of solver and weights in float32.
A rank achieves {passes} TFLOP/s in passes, {solver} in the solver, and {bandwidth} GB/s to the others, in a ring.
Under FSDP2 each rank holds the whole model while an event lasts; the optimizer's moments stay sharded. FLOPs of
attention itself, norms and biases are left out. Nothing overlaps: the parts are added.

| model | parameters | ranks | passes | TFLOPs | reduced | gathered | held | seconds | of which most |
|---|---|---|---|---|---|---|---|---|---|
{rows}

*passes*: over the rank's share of the probe, one for each group of sites that fits the memory. *TFLOPs*: of passes,
products and orthogonalisation on one rank. *reduced*: the products of all iterations. *gathered*: whole weights
from their shards. *held*: whole weights and `max_memory`, beside the training step's own.

{verdict}

## Checked on two ranks
Two gloo processes, an MLP with sites of 48 x 24 and 40 x 48, analyses of 1 and of 9 iterations. Numbers in the
products that were reduced: counted {reduced:,}, by the formula {reduced_formula:,}. All else that was reduced
(counts, means, error bars) is {other:,} numbers. FLOPs of the 8 iterations between the two analyses on one rank:
counted {flops:,}, by the formula {flops_formula:,} ({error:+.1%}). Passes, memory and seconds were not checked.

## Trained on four ranks
Four gloo processes train an MLP of three layers for {steps} steps of AdamW in float64, growing {events} times, each
on a quarter of the data and of the probe. The largest difference of any rank from one process with all of it:

| | difference |
|---|---|
{differences}

All four grew alike. The first is before training; the others are of the weights at the end.
"""

_VERDICT = """**What binds.** Reducing products moves 2 I numbers for each weight, as many as the gradients of 2 I
training steps, and more ranks do not make it less. The solver's products shrink with the ranks' share of the probe;
keeping the bases orthogonal does not. Where the Lanczos bases exceed `max_memory` by far, each group of sites takes
a pass of its own: give more memory, fewer iterations, or score fewer sites (`include=`), of which an event costs
their share.

**What would change it** is to give each rank some neurons of a site, and not some of the samples: then the bases
would be divided too, and inputs would be gathered once for each site. That is not built. Nor is an event that
leaves the weights sharded, which is what keeps the largest of these models from growing on ranks with 80 GB."""


def main() -> None:
    """Compute, count, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/ranks.md"))
    output: Path = parser.parse_args().output
    output.write_text(page(count_on_two_ranks()[0], largest_differences(TRAINING)))
    print(f"wrote {output}")


def page(counted: Counted, differences: Mapping[str, float]) -> str:
    """Return the page.

    Args:
        counted: What two ranks counted.
        differences: How far four ranks were from one process.
    """
    probe, machine = Probe(), Machine()
    return _PAGE.format(
        samples=probe.samples,
        iterations=probe.iterations,
        memory=probe.max_memory >> 30,
        passes=round(machine.pass_flops / 1e12),
        solver=round(machine.solver_flops / 1e12),
        bandwidth=round(machine.bandwidth / 1e9),
        rows="\n".join(row for row in _rows(probe, machine)),
        verdict=_VERDICT,
        steps=STEPS,
        events=len(EVENTS),
        differences="\n".join(f"| {name} | {value:.1e} |" for name, value in differences.items()),
        error=counted.flops / counted.flops_formula - 1,
        **vars(counted),
    )


def _rows(probe: Probe, machine: Machine) -> list[str]:
    return [f"| {' | '.join(_cells(shape, ranks, probe, machine))} |" for shape in SHAPES for ranks in RANKS]


def _cells(shape: Shape, ranks: int, probe: Probe, machine: Machine) -> tuple[str, ...]:
    name = shape.name, f"{shape.parameters / 1e9:.2f} G", f"{ranks:,}"
    try:
        cost = event_cost(shape, ranks, probe)
    except MemoryError as error:
        return (*name, *("",) * 6, f"refused: {error}")
    seconds = cost.seconds(machine, ranks)
    total, most = sum(seconds.values()), max(seconds, key=lambda part: seconds[part])
    flops = cost.pass_flops + cost.product_flops + cost.orthogonal_flops
    gigabytes = [f"{size / 1e9:,.0f} GB" for size in (cost.reduced_bytes, cost.gathered_bytes, cost.peak_bytes)]
    numbers = f"{cost.passes:,}", f"{flops / 1e12:,.0f}", *gigabytes, f"{total:,.0f}"
    return (*name, *numbers, f"{most}, {seconds[most] / total:.0%}")


if __name__ == "__main__":
    main()
