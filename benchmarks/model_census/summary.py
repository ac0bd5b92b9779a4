"""Figures over many results."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from model_census.candidates import BEYOND_CLASSIFICATION, NOT_IN_TORCH_PRUNINGS_LIST
from model_census.results import Result

#: stages that the census has had since most models went through it
LATER = ("records", "rows")


@dataclass(frozen=True)
class Passed:
    """A group of models, and by stage how many of them passed, and were asked at all."""

    results: Sequence[Result]

    @property
    def total(self) -> int:
        """How many models there are."""
        return len(self.results)

    def spelled(self, stage: str) -> str:
        """Return what the tables say of a stage, as in ``12 of 14``; nothing where no model was asked."""
        passed = sum(stage in item.stages for item in self.results)
        asked = sum(_asked(item, stage) for item in self.results)
        return f"{passed} of {asked}" if asked else ""


def _asked(result: Result, stage: str) -> bool:
    """Say whether a model passed a stage or did not; most were run before the census had the stages of `LATER`."""
    failed = result.failure is not None and (stage not in LATER or result.failure.stage == stage)
    return stage in result.stages or failed


def passed_by_stage(results: Iterable[Result]) -> dict[str, Passed]:
    """Return, for each group of models, how many there are and how many passed each stage.

    Groups are the suites; torchvision's classification models stand apart from the rest of Torch-Pruning's list.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(group_of(result), []).append(result)
    return {name: Passed(members) for name, members in groups.items()}


def group_of(result: Result) -> str:
    """Return the group that a model is counted in."""
    if result.suite != "torchvision":
        return {"timm": "timm families", "hf": "Hugging Face", "packages": "other packages"}[result.suite]
    return "torchvision, other tasks" if result.model in BEYOND_CLASSIFICATION else "torchvision classification"


def in_torch_prunings_list(result: Result) -> bool:
    """Say whether a model is one of the 85 names of Torch-Pruning's torchvision list."""
    return result.suite == "torchvision" and result.model not in NOT_IN_TORCH_PRUNINGS_LIST


def median_growable_share(results: Iterable[Result]) -> float | None:
    """Return the median share of growable parameters of the models that were traced."""
    shares = [result.facts["growable_share"] for result in results if "growable_share" in result.facts]
    return median(shares) if shares else None
