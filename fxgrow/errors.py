"""The exceptions that fxgrow raises for what a user can mend.

Every message is one line in three parts: where (a module path or a file), what was wrong, and what to do next.
"""

import difflib
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.fx import GraphModule


class FxgrowError(Exception):
    """Something that the user can mend.

    Args:
        what: The fact, in one sentence without a full stop.
        where: The module path, file or option that it concerns.
        fix: What to do next, as an imperative clause.

    Example:
        >>> str(FxgrowError("it has 3 rows", where="blocks.0.mlp.fc1", fix="choose rows below 3"))
        'blocks.0.mlp.fc1: it has 3 rows; choose rows below 3'
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__((f"{where}: " if where else "") + what + (f"; {fix}" if fix else ""))

    @property
    def kind(self) -> str:
        """The section of docs/errors.md that explains it."""
        return next(kind.__name__ for kind in type(self).__mro__ if kind.__module__ == __name__)


class TraceError(FxgrowError):
    """A model could not be traced, or what was traced is not the model."""


class AnalysisError(FxgrowError):
    """Scores could not be measured: the loss, the probe data, or the request does not fit the model."""


class PlanError(FxgrowError):
    """No plan fits: the budget, the scores, the operator or the sites asked for."""


class PassError(FxgrowError):
    """A pass was refused, or broke an invariant of the graph."""


class PipelineError(PassError):
    """A pass of a pipeline failed.

    Args:
        what: As `FxgrowError`.
        where: As `FxgrowError`.
        fix: As `FxgrowError`.
        failed: The failing pass as text.
        before: The graph that it was given: what the passes before it had made.
    """

    def __init__(self, what: str, *, where: str | None, fix: str | None, failed: str, before: "GraphModule") -> None:
        super().__init__(what, where=where, fix=fix)
        self.failed, self.before = failed, before

    def reproducer(self, path: str) -> str:
        """Return the command that runs the failing pass alone on `before`, saved at `path`."""
        return f"fxgrow run {shlex.quote(path)} -p {shlex.quote(self.failed)} -o after.pt"


class RankError(FxgrowError):
    """The ranks of a run do not agree, or one of them is gone."""


class VerificationError(FxgrowError):
    """Two graphs that should compute the same function do not."""


class FileError(FxgrowError):
    """A file could not be read as, or written as, a model of fxgrow."""


class ExportError(FxgrowError):
    """A model cannot be written in the format of another tool."""


class FxgrowWarning(UserWarning):
    """What fxgrow warns of; each kind is a category of its own, to be filtered by."""


class CheckpointWarning(FxgrowWarning):
    """A checkpoint was passed over, because it is damaged or was not finished."""


class LostGrowthWarning(FxgrowWarning):
    """What grew is about to be lost: a model from before it is written, or cannot take the state of one from behind."""


class DataError(FxgrowError):
    """A data source is unknown, missing or empty."""


class SettingsError(FxgrowError):
    """A recipe or an option of a run is misspelled, out of its range, or does not go with another."""


class DivergenceError(FxgrowError):
    """The loss of a training is not finite.

    Args:
        what: As `FxgrowError`.
        step: How many optimizer steps were made before it.
    """

    def __init__(self, what: str, *, step: int) -> None:
        self.step = step
        fix = "go on from the last checkpoint with a lower learning rate, or clip the gradients"
        super().__init__(what, where=f"step {step}", fix=fix)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without the full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def ran_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is one of memory, of a device or of the machine, or was caused by one."""
    kinds = {kind.__name__ for kind in type(error).__mro__}  # torch's own by its name: nothing here imports torch
    if kinds & {"MemoryError", "OutOfMemoryError"} or "can't allocate memory" in str(error):
        return True
    return error.__cause__ is not None and ran_out_of_memory(error.__cause__)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question, with a space behind it, that names the known word closest to `word`; empty if none is close.

    Example:
        >>> did_you_mean("eigne", ["eigen", "branch"])
        "did you mean 'eigen'? "
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""
