"""Results as JSON lines: one model a line, appended as soon as it is known, so that a run can be taken up again."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_census.candidates import Candidate


@dataclass(frozen=True)
class Failure:
    """Why a model went no further."""

    stage: str
    exception: str
    message: str


@dataclass(frozen=True)
class Result:
    """How far one model went."""

    key: str
    suite: str
    family: str
    model: str
    inputs: str
    arguments: Mapping[str, Any]
    stages: Mapping[str, float]  #: seconds for each stage that was passed
    facts: Mapping[str, Any]
    failure: Failure | None
    seconds: float

    @classmethod
    def of(
        cls,
        candidate: Candidate,
        stages: Mapping[str, float],
        facts: Mapping[str, Any],
        failure: Failure | None,
        seconds: float,
    ) -> "Result":
        """Return the result of a candidate."""
        return cls(
            candidate.key,
            candidate.suite,
            candidate.family,
            candidate.model,
            candidate.spelled_inputs,
            candidate.arguments,
            stages,
            facts,
            failure,
            seconds,
        )


def append(path: Path, result: Result) -> None:
    """Append a result to the file, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(dataclasses.asdict(result), sort_keys=True, default=str)
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as stream:
        stream.write(("\n" if torn else "") + line + "\n")


def read(path: Path) -> dict[str, Result]:
    """Return the results of a file by key; the last one where there are several, none if there is no file.

    A line that was cut off, as by a power failure, is left out, so that its model is tried again.
    """
    found: dict[str, Result] = {}
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        failure = Failure(**row.pop("failure")) if row["failure"] else row.pop("failure")
        found[row["key"]] = Result(**row, failure=failure)
    return found
