"""The page that shows which models can be deepened, and why others cannot."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from model_census.candidates import one_of_each_family
from model_census.report import not_run
from model_census.results import Result
from model_census.summary import group_of

_HEAD = """# Census: which models can be deepened

`python benchmarks/census.py --deepen` traces one small model of each family and turns the first residual block of each
row of equal blocks into two steps, once by a silent copy (`fxgrow.deepen(..., how="zero")`), once by half-steps. This
page is what came out, written by `python benchmarks/census.py --deepen --report docs/deepening.md --results
docs/deepening.jsonl`; that file holds the data.

Families are timm's modules, those of torchvision's documentation, and segmentation and optical flow of its other tasks:
detectors are not traced as a whole (`census.md`), and their backbones are models of these families.

- **silent copies**: outputs, gradients and buffers are the model's, to 1e-5 in float32, in eval mode and, where no
  random numbers are drawn, in train mode; outputs to 1e-10 in float64, where the model runs in it.
- **half-steps**: the deeper model runs, and every parameter of both halves has a finite gradient. It computes something
  else, as it should (`half_steps.md`).
- **blocks**: how many residual blocks were found. **can wait**: how many of them have others of their kind in their
  row, so that `fxgrow.Progressive` can leave them out at first. Many of these models are the smallest of their family
  and have one block in a row; bigger ones have more.
- *n of m* counts rows of blocks. The last column says why the rest is refused, the two commonest reasons.
"""

#: parts of reasons that name values of one model, and what to say in their place
_NAMED = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"its residual branch .* ends", "its residual branch ends"),
        (r"it is not residual: .* is not the sum", "it is not residual: what leaves it is not the sum"),
        (r"it reads .*, and not one value", "it reads several values"),
        (r"multiplies .*", "multiplies it"),
        (r".* inside it is read outside", "a value inside it is read outside"),
        (r".* of it is read outside, and not one value", "several of its values are read outside"),
        (r"it shares weights with .*", "it shares weights"),
        (r"it calls .*, which", "it calls a module that"),
    )
)


def write_report(results: Mapping[str, Result], path: Path) -> None:
    """Write the page from the results."""
    groups: dict[str, list[Result]] = {}
    for result in results.values():
        groups.setdefault(group_of(result), []).append(result)
    parts = [_HEAD, *not_run(results, one_of_each_family()), "## In sum\n", *_summary(groups)]
    for name, members in groups.items():
        parts += [f"\n## {name[0].upper()}{name[1:]}\n", *_models(members)]
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _summary(groups: Mapping[str, list[Result]]) -> Iterator[str]:
    yield f"| | {' | '.join(groups)} |"
    yield f"|---|{'---|' * len(groups)}"
    rows = {
        "traced": [result for members in groups.values() for result in members if "found" in result.stages],
        "has residual blocks": [r for members in groups.values() for r in members if r.facts.get("blocks")],
        "silent copies, all equal": [r for m in groups.values() for r in m if _went(r, "zero", "silent copies")],
        "half-steps": [r for members in groups.values() for r in members if _went(r, "half", "half-steps")],
        "blocks can wait": [r for members in groups.values() for r in members if r.facts.get("can_wait")],
    }
    for title, passed in rows.items():
        counts = Counter(group_of(result) for result in passed)
        yield f"| {title} | {' | '.join(f'{counts[name]} of {len(members)}' for name, members in groups.items())} |"


def _went(result: Result, how: str, stage: str) -> bool:
    """Say whether some block could be deepened so, and what came out passed."""
    return stage in result.stages and "" in result.facts.get(how, {}).values()


def _models(results: Iterable[Result]) -> Iterator[str]:
    yield "| model | blocks | can wait | silent copies | half-steps | why not all |"
    yield "|---|--:|--:|---|---|---|"
    for result in results:
        facts = result.facts
        cells = [
            f"{result.family}: {result.model}" if result.suite != "torchvision" else result.model,
            str(facts.get("blocks", "")),
            str(facts.get("can_wait", "")),
            _share(result, "zero"),
            _share(result, "half"),
            "; ".join(_reasons(result)).replace("|", "\\|"),
        ]
        yield f"| {' | '.join(cells)} |"


def _share(result: Result, how: str) -> str:
    said = result.facts.get(how, {})
    return f"{sum(not why for why in said.values())} of {len(said)}" if said else ""


def _reasons(result: Result) -> list[str]:
    """Return why blocks are refused, each reason once, the commonest first."""
    if result.failure is not None:
        return [f"not {result.failure.stage}: {result.failure.message}"]
    if not result.facts["blocks"]:
        return ["it has no residual blocks"]
    counts: Counter[str] = Counter()
    for how in ("zero", "half"):
        counts.update(_without_names(why) for why in result.facts.get(how, {}).values() if why)
    for why, number in result.facts["refused"].items():
        counts[_without_names(why)] += number
    return [reason for reason, _ in counts.most_common(2)]


def _without_names(reason: str) -> str:
    """Return a reason without the names of the values that it is about."""
    for pattern, words in _NAMED:
        reason = pattern.sub(words, reason)
    return reason
