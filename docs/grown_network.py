"""Draw the picture of a grown network that README shows.

Run: python docs/grown_network.py [RUN]    (writes docs/grown_network.svg; RUN is what `fxgrow train digits` leaves)
"""

import sys
from pathlib import Path

from matplotlib import pyplot, rc_context

import fxgrow

TARGET = Path(__file__).with_suffix(".svg")


def main(run: str = "runs/digits") -> None:
    """Draw the depth map, on white, so that it is readable by day and by night."""
    results = fxgrow.results.read_results(run)
    history = results.table.record.history
    sizes = f"{history[0].parameters_before:,} to {results.table.parameters:,} parameters"
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "fxgrow", "font.family": "sans-serif"}):
        figure, axes = pyplot.subplots(figsize=(7.6, 4.6), layout="constrained")
        fxgrow.plot.depth_map(results, axes=axes)
        figure.suptitle(f"{results.table.record.origin.name}: {len(history)} growth events, {sizes}", fontsize=10)
        pyplot.savefig(TARGET, facecolor="white", metadata={"Date": None})
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main(*sys.argv[1:])
