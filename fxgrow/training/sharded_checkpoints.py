"""Checkpoints of a run on many ranks: each writes its shards, by `torch.distributed.checkpoint`.

A checkpoint is a folder: torch's shards of weights and moments, and one small file with all the rest, the structure of
the model among it, which a fresh process needs before it knows what to read. torch writes ``.metadata`` last: a folder
without it is one that somebody did not finish, and is passed over.
"""

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from fxgrow.errors import CheckpointWarning, FileError
from fxgrow.execution.ranks import Ranks
from fxgrow.training.grower import Grower

_REST, _COMPLETE = "rest.pt", ".metadata"
#: what a state holds tensors of the size of the model in
_LARGE = ("model/", "optimizers/")


class ShardedCheckpoints:
    """Writes the state of a `Grower` on all ranks, and brings it back on as many or on another number.

    All ranks call each method. What differs from rank to rank, the random state, is that of the first.

    Args:
        folder: Where the checkpoints lie, on a disk that all ranks see.
        keep: How many of the newest are kept.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 3) -> None:
        if keep < 1:
            raise FileError(f"keep={keep} keeps none", where=str(folder), fix="give 1 or more")
        self.folder, self.keep = Path(folder), keep

    def save(self, grower: Grower, *, step: int) -> Path:
        """Write a checkpoint, forget the oldest, and return its path.

        Raises:
            RankError: If a rank is gone; the checkpoints before are all still there then.
        """
        target, ranks = self.folder / f"step_{step}", Ranks()
        large: dict[str, Tensor] = {}
        rest = _parted(grower.state_dict(), "", large)
        if ranks.index == 0:
            (target / _COMPLETE).unlink(missing_ok=True)
            target.mkdir(parents=True, exist_ok=True)
            kinds = {key: (list(tensor.shape), tensor.dtype) for key, tensor in large.items()}
            torch.save({"state": rest, "kinds": kinds}, target / _REST)
        ranks.total(1)  # nobody writes shards beside a marker of completeness that is about to go
        with _on_one_process_too():
            save_tensors(large, checkpoint_id=target)
        if ranks.index == 0:
            for path in self.paths()[: -self.keep]:
                shutil.rmtree(path)
        return target

    def load(self, grower: Grower) -> int | None:
        """Let a Grower go on from the newest whole checkpoint, and return its step; None where there is none."""
        complete = self.paths()
        for path in sorted(self.folder.glob("step_*"), key=_step_of, reverse=True):
            if path in complete:
                load_sharded(grower, path)
                return _step_of(path)
            warnings.warn(f"passed over a checkpoint: {path}: it was not finished", CheckpointWarning, stacklevel=2)
        return None

    def paths(self) -> list[Path]:
        """Return the checkpoints that are whole, the newest last."""
        return sorted((path.parent for path in self.folder.glob(f"step_*/{_COMPLETE}")), key=_step_of)


def load_sharded(grower: Grower, path: str | os.PathLike[str]) -> None:
    """Let a Grower, constructed as that of the run was, go on from one checkpoint.

    Raises:
        FileError: If it is no checkpoint.
        TraceError: If the model is another one than that of the run.
    """
    try:
        rest = torch.load(Path(path) / _REST, weights_only=True)
    except OSError as error:
        fix = "name a folder that ShardedCheckpoints wrote"
        raise FileError(f"it cannot be read ({error.strerror})", where=str(path), fix=fix) from error
    grower.model.set_extra_state(rest["state"]["model"]["_extra_state"])
    own = {**dict(grower.model.named_parameters()), **dict(grower.model.named_buffers())}
    large = {key: _empty(key, shape, dtype, own) for key, (shape, dtype) in rest["kinds"].items()}
    with _on_one_process_too():
        load_tensors(large, checkpoint_id=path)
    grower.load_state_dict(_joined(rest["state"], "", large))


def _step_of(path: Path) -> int:
    number = path.name.rpartition("_")[2]
    return int(number) if number.isdecimal() else -1


def _empty(key: str, shape: list[int], dtype: torch.dtype, own: Mapping[str, Tensor]) -> Tensor:
    """Return a tensor to read into, distributed as the parameter is that it belongs to."""
    like = next((own[part] for part in key.split("/") if part in own), None)
    if like is not None and list(like.shape) == shape:
        return torch.empty_like(like, dtype=dtype, requires_grad=False)
    return torch.empty(shape, dtype=dtype)


@contextmanager
def _on_one_process_too() -> Iterator[None]:
    """Do without torch's warning that there is one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        yield


def _parted(value: Any, path: str, large: dict[str, Tensor]) -> Any:
    """Return a state without its large tensors, which are put into `large` by their paths."""
    if isinstance(value, Tensor) and path.startswith(_LARGE) and not path.endswith("_extra_state"):
        large[path] = value
        return None
    if isinstance(value, Mapping):
        return {key: _parted(item, f"{path}/{key}".lstrip("/"), large) for key, item in value.items()}
    if isinstance(value, list):
        return [_parted(item, f"{path}/{index}", large) for index, item in enumerate(value)]
    return value


def _joined(value: Any, path: str, large: Mapping[str, Tensor]) -> Any:
    """Return a state with its large tensors again."""
    if path in large:
        return large[path]
    if isinstance(value, dict):
        return {key: _joined(item, f"{path}/{key}".lstrip("/"), large) for key, item in value.items()}
    if isinstance(value, list):
        return [_joined(item, f"{path}/{index}", large) for index, item in enumerate(value)]
    return value
