"""The page that shows a census as it came out."""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from model_census.candidates import Candidate, candidates
from model_census.results import Result
from model_census.stages import ALL_STAGES, BUDGET, STEPS
from model_census.summary import (
    Passed,
    group_of,
    in_torch_prunings_list,
    median_growable_share,
    passed_by_stage,
)

_HEAD = """# Census: which models grow

`python benchmarks/census.py` takes one small model of each timm family, torchvision's models, some of Hugging Face's
and models of other people's packages (which the extra `census` installs) from their own code to a grown model in a file
and back, and writes down how far each one goes. This page is what came out, written by `python benchmarks/census.py
--report docs/census.md --results docs/census.jsonl`; that file holds the data.

| stage | what it means that a model passed |
|---|---|
| built | the model was built, with random weights, zeros among them made small numbers as by some training |
| traced | `fxgrow.trace` returned a graph |
| gated | outputs, gradients of all parameters and buffers equal the model's, at batch 2 and 3, in train and eval mode |
| records | what the graph's operations do to memory, state and the random stream is in their records ² |
| scored | `fxgrow.analyze` measured the least eigenvalue of every neuron of every site |
| grown serial | `fxgrow.grow` spent {budget} of the parameters on `serial` pseudo-layers |
| grown branch | what came out was scored and grown again by as much, by `branch`, in pseudo-layers too |
| equal | after both events outputs, gradients and buffers still equal the model's, as for *gated* |
| backward | two AdamW steps, up to {steps} where random depth drops blocks, moved every parameter that was added |
| rows | within ten of these steps every row of them had moved, that is, what belongs to one output ² |
| compiled | `torch.compile(grown, fullgraph=True)` ran forward and backward, and its loss is the eager one ¹ |
| saved | `fxgrow.save` wrote it |
| loaded | a process that had never seen the model rebuilt it from the file, with bit-equal outputs |

¹ Where compiled code lays out a value in memory otherwise than eager code does, dropout draws another mask. The loss in
eval mode is compared then; the tables say for which models.

² Added to the census later: asked of the models whose lines say how many rows moved, and *not* of the others. Those
took Rprop's steps in *backward*.

Where less than half of a model could grow in what came through the first door, its torch.export program was traced
instead, if more of that could grow. A program stays in the mode it was exported in, so that such a model is compared in
eval mode only; the tables say which ones.
"""


def write_report(results: dict[str, Result], path: Path) -> None:
    """Write the page from the results."""
    found = list(results.values())
    parts = [
        _HEAD.format(budget=f"{BUDGET:.0%}", steps=STEPS),
        _setting(found),
        *not_run(results, candidates()),
        "## In sum\n",
        *_summary(found),
        "\n## Models that did not go all the way\n",
        *_failures(found),
    ]
    parts += ["\n## What stays whole, and why\n", *_whole(found)]
    for group in passed_by_stage(found):
        parts += [f"\n## {group[0].upper()}{group[1:]}\n", *_models(item for item in found if group_of(item) == group)]
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _setting(results: list[Result]) -> str:
    versions = {line for item in results for line in [item.facts.get("versions")] if line}
    backends = ", ".join(sorted({item.facts["backend"] for item in results if "backend" in item.facts}))
    hours = sum(item.seconds for item in results) / 3600
    return (
        f"Versions: {'; '.join(sorted(versions))}; Python {platform.python_version()}. torch.compile's backend: "
        f"{backends}. {hours:.1f} hours of processes in all. Seconds are wall time beside whatever else the machine "
        "did: they say what is slow and are no benchmark.\n"
    )


def not_run(results: Mapping[str, Result], asked: Sequence[Candidate]) -> Iterator[str]:
    """Say which of the models that are asked the results do not hold, suite by suite."""
    for suite in dict.fromkeys(item.suite for item in asked):
        every = [item for item in asked if item.suite == suite]
        missing = [item.model for item in every if item.key not in results]
        if missing:
            yield f"Not run yet: {len(missing)} of {len(every)} of the suite {suite}: {', '.join(missing)}.\n"


def _summary(results: list[Result]) -> Iterator[str]:
    groups = passed_by_stage(results)
    listed = [item for item in results if in_torch_prunings_list(item)]
    columns = {**groups, "Torch-Pruning's 85 names": Passed(listed)} if listed else groups
    yield f"| passed | {' | '.join(columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    for stage in ALL_STAGES:
        yield f"| {stage} | {' | '.join(group.spelled(stage) for group in columns.values())} |"
    shares = {name: median_growable_share(r for r in results if group_of(r) == name) for name in groups}
    if listed:
        shares["Torch-Pruning's 85 names"] = median_growable_share(listed)
    spelled = " | ".join("" if share is None else f"{share:.1%}" for share in shares.values())
    yield f"| median share of parameters in growable sites | {spelled} |"


def _failures(results: list[Result]) -> Iterator[str]:
    failed = [item for item in results if item.failure is not None]
    if not failed:
        yield "None."
        return
    yield "| model | not | exception | message |"
    yield "|---|---|---|---|"
    for item in failed:
        assert item.failure is not None
        yield f"| {item.key} | {item.failure.stage} | {item.failure.exception} | {_cell(item.failure.message)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _whole(results: list[Result]) -> Iterator[str]:
    """Say which modules tracing did not enter, by the notes of the trace that give their share and the reason."""
    noted = [(item.key, note) for item in results for note in item.facts.get("notes", ()) if "stays whole" in note]
    if not noted:
        yield "No module that holds parameters."
        return
    yield "| model | note |"
    yield "|---|---|"
    for key, note in noted:
        yield f"| {key} | {_cell(note)} |"


def _models(results: Iterable[Result]) -> Iterator[str]:
    yield "| model | input | parameters | growable | stays whole | nodes | new rows moved | went | seconds |"
    yield "|---|---|--:|--:|--:|--:|--:|---|--:|"
    for item in results:
        facts = item.facts
        share = f"{facts['growable_share']:.1%}" if "growable_share" in facts else ""
        went = "to the end" if item.failure is None else f"not {item.failure.stage}"
        if facts.get("door", "symbolic trace") != "symbolic trace":
            went += f" (by {facts['door']})"
        if facts.get("compared_in") == "eval":
            went += " ¹"
        name = f"{item.family}: {item.model}" if item.suite != "torchvision" else item.model
        whole = len(facts.get("whole", ())) or ""
        cells = (
            name,
            item.inputs,
            f"{facts['parameters']:,}" if "parameters" in facts else "",
            share,
            str(whole),
            str(facts.get("nodes", "")),
            str(facts.get("rows", "")),
            went,
            f"{item.seconds:.0f}",
        )
        yield f"| {' | '.join(cells)} |"
