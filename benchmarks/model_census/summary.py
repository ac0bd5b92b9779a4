"""Figures over many results."""

from collections import Counter
from collections.abc import Iterable
from statistics import median

from model_census.candidates import BEYOND_CLASSIFICATION, NOT_IN_TORCH_PRUNINGS_LIST
from model_census.results import Result


def passed_by_stage(results: Iterable[Result]) -> dict[str, tuple[int, Counter[str]]]:
    """Return, for each group of models, how many there are and how many passed each stage.

    Groups are the suites; torchvision's classification models stand apart from the rest of Torch-Pruning's list.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(group_of(result), []).append(result)
    return {name: (len(members), stages_of(members)) for name, members in groups.items()}


def stages_of(results: Iterable[Result]) -> Counter[str]:
    """Count the models that passed each stage."""
    return Counter(stage for result in results for stage in result.stages)


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
