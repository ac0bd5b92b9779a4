"""Write docs/ranks.md: what a growth event costs on many ranks, and whether two ranks agree with the formulas.

Run: python benchmarks/ranks.py [--output docs/ranks.md]    (half a minute: two processes on this machine)
"""

import argparse
from pathlib import Path

from many_ranks.check import Counted, count_on_two_ranks
from many_ranks.costs import SHAPES, Machine, Probe, event_cost

RANKS = (8, 256, 4096)

_PAGE = """# An event on many ranks, computed

What one growth event costs each rank, from the shapes of the sites: `python benchmarks/ranks.py` writes this page, and the
formulas stand in `benchmarks/many_ranks/costs.py`. Nothing here was measured on so many ranks.

**Assumptions.** {samples} samples of probe data on all ranks together, at least one on each; {iterations} Lanczos iterations at all
sites of all blocks; {memory} GiB of `max_memory`; every number of solver and weights in float32. A rank achieves {passes} TFLOP/s
in passes, {solver} in the solver, and {bandwidth} GB/s to the others, in a ring. Under FSDP2 each rank holds the whole model while an
event lasts; the optimizer's moments stay sharded. FLOPs of attention itself, norms and biases are left out, and so is what
overlaps: the parts are added.

| model | parameters | ranks | passes | TFLOPs | reduced | gathered | held | seconds | of which most |
|---|---|---|---|---|---|---|---|---|---|
{rows}

passes: over the rank's share of the probe, one for each group of sites that fits the memory. TFLOPs: of passes, products and
orthogonalisation on one rank. reduced: the products of all iterations. gathered: whole weights from their shards. held: whole weights
and `max_memory`, beside the training step's own.

**What binds.** {verdict}

## Checked on two ranks
Two gloo processes, an MLP with sites of 48 x 24 and 40 x 48, {check_iterations} iterations. Reduced numbers of the products: counted {reduced:,},
by the formula {reduced_formula:,}. All else that is reduced (counts, means, error bars) is {other:,} numbers. FLOPs of the solver on one
rank: counted {flops:,} by torch's counter, by the formula {flops_formula:,} ({error:+.1%}). Passes, memory and seconds were not checked.
"""

_VERDICT = """Reducing products costs 2 I numbers for each weight, 8 I bytes: as much as the gradients of 2 I training
steps, and more ranks do not make it less. With few ranks the solver's own products are more; they shrink with the ranks'
share of the probe, orthogonalisation does not. For models whose Lanczos bases exceed `max_memory` by far, passes over the
probe, one for each group, come first: give more memory, fewer iterations, or score fewer sites by `include=`.
What would take away the largest term is to give each rank some neurons of a site, and not some of the samples; that is not
built. At these sizes nobody needs all sites at each event: an event on the sites of a few blocks costs their share."""


def main() -> None:
    """Compute, count, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/ranks.md"))
    output: Path = parser.parse_args().output
    output.write_text(page(count_on_two_ranks()[0]))
    print(f"wrote {output}")


def page(counted: Counted) -> str:
    """Return the page."""
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
        check_iterations="1 and 9",
        error=counted.flops / counted.flops_formula - 1,
        **vars(counted),
    )


def _rows(probe: Probe, machine: Machine) -> list[str]:
    rows = []
    for shape in SHAPES:
        for ranks in RANKS:
            cost = event_cost(shape, ranks, probe)
            seconds = cost.seconds(machine, ranks)
            most = max(seconds, key=lambda part: seconds[part])
            flops = cost.pass_flops + cost.product_flops + cost.orthogonal_flops
            rows.append(
                f"| {shape.name} | {shape.parameters / 1e9:.2f} G | {ranks:,} | {cost.passes:,} | {flops / 1e12:,.0f} | "
                f"{cost.reduced_bytes / 1e9:,.0f} GB | {cost.gathered_bytes / 1e9:,.0f} GB | {cost.peak_bytes / 1e9:,.0f} GB | "
                f"{sum(seconds.values()):,.0f} | {most}, {seconds[most] / sum(seconds.values()):.0%} |"
            )
    return rows


if __name__ == "__main__":
    main()
