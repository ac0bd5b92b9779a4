"""What a run of the census shows: a progress bar, a line for each model, and a table at the end."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from model_census.candidates import Candidate
from model_census.processes import Limits, census
from model_census.results import Result, append, read
from model_census.summary import passed_by_stage


def run(
    candidates: list[Candidate], limits: Limits, *, jobs: int, backend: str, results: Path, way: str = "stages"
) -> int:
    """Run the census and show it; the exit status is 130 if it was interrupted, else 0."""
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("census", total=len(candidates))

        def started(candidate: Candidate) -> None:
            progress.update(task, description=candidate.key)

        try:
            for result in census(candidates, limits, jobs=jobs, backend=backend, started=started, way=way):
                append(results, result)
                progress.console.print(describe(result), highlight=False, soft_wrap=True, markup=False)
                progress.advance(task)
        except KeyboardInterrupt:
            console.print(f"interrupted; go on with --resume ({results})")
            return 130
    console.print(_table(list(read(results).values()), import_module(f"model_census.{way}").ALL_STAGES))
    return 0


def describe(result: Result) -> str:
    """Return one line on how far a model went."""
    share = result.facts.get("growable_share")
    growable = f"{share:4.0%} growable" if share is not None else ""
    end = "to the end" if result.failure is None else f"not {result.failure.stage}: {result.failure.exception}: "
    message = result.failure.message if result.failure else ""
    return f"{result.key:44s} {result.seconds:6.1f} s  {growable:14s} {end}{message}"


def _table(results: list[Result], stages: Sequence[str]) -> Table:
    groups = passed_by_stage(results)
    table = Table("passed", *groups)
    for stage in stages:
        table.add_row(stage, *(group.spelled(stage) for group in groups.values()))
    return table
