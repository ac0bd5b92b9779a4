"""The page that shows what was measured."""

import json
from collections.abc import Iterable
from pathlib import Path

TITLES = {
    "cost": "Cost, in training steps of the same batch (DeiT-S)",
    "memory": "Memory (DeiT-S, 32 images at 224)",
    "event": "A growth event's analysis beside an epoch (DeiT-S)",
    "solver": "Solver error, float32 against explicit float64 matrices",
    "throughput": "Throughput over plain matrix products of the same sizes (32 images of DeiT-S)",
    "libraries": "The same work by other libraries (a small vision transformer)",
    "scaling": "How the cost grows",
    "stability": (
        "Stability of the ranking: rank correlation between two disjoint sets of images, of values "
        "(of held-out values), by images in each set; models trained on MNIST digits"
    ),
}


def page(results: Path, sections: Iterable[str]) -> str:
    """Return the page in Markdown, from the rows of the sections that were run."""
    lines = [
        "# The curvature engine, measured",
        "",
        "Written by `python benchmarks/curvature.py --report docs/curvature_benchmark.md`. Ratios are within one run.",
        "*Eigenvalues* are least eigenvalues alone; *with held-out values* adds the two halves' solves, at half the",
        "iterations each, and the error bars: that is what `fxgrow.analyze` does. Cost is that of one capture of",
        "all sites; each further group of sites that `max_memory` asks for costs another one.",
    ]
    for section in sections:
        path = results / f"{section}.json"
        if not path.exists():
            continue
        content = json.loads(path.read_text())
        quick = " (quick: small sizes)" if content["quick"] else ""
        lines += ["", f"## {TITLES[section]}{quick}", "", f"{content['machine']}.", ""]
        lines += ["| what | measured | target |", "|---|---|---|"]
        lines += [f"| {row['what']} | {row['value']} | {row['target']} |" for row in content["rows"]]
    return "\n".join(lines) + "\n"
