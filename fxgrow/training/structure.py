"""What a grown model is, apart from its weights: the edit log and the history, as one tensor of a state dict."""

from dataclasses import dataclass

import msgspec
import torch
import torch.fx as fx
from torch import Tensor

from fxgrow.errors import FxgrowError, TraceError
from fxgrow.optimizers import Optimizers
from fxgrow.record.digest import digest
from fxgrow.record.record import GrowthEvent, record_of, update_record
from fxgrow.training.replaying import replay


@dataclass(frozen=True)
class Structure:
    """The structure of a grown model: enough to make it of its base."""

    digest: str  #: of the grown graph
    edits: tuple[str, ...] = ()
    history: tuple[GrowthEvent, ...] = ()

    @classmethod
    def of(cls, graph_module: fx.GraphModule) -> "Structure":
        """Return the structure of a graph."""
        record = record_of(graph_module)
        return cls(digest(graph_module), record.edits, record.history)

    @classmethod
    def from_tensor(cls, said: Tensor) -> "Structure":
        """Read what `to_tensor` wrote.

        Raises:
            TraceError: If the tensor holds something else.
        """
        try:
            return msgspec.json.decode(bytes(said.cpu().tolist()), type=cls)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            fix = "load the state dict of a model that fxgrow grew"
            raise TraceError(f"it is no structure of a grown model ({error})", where="_extra_state", fix=fix) from error

    def to_tensor(self) -> Tensor:
        """Return it as bytes, ``(length,)``: what every reader and writer of state dicts takes, safetensors too."""
        return torch.frombuffer(bytearray(msgspec.json.encode(self)), dtype=torch.uint8)

    def made_of(self, graph_module: fx.GraphModule, optimizer: Optimizers | None = None) -> fx.GraphModule:
        """Return a copy of a graph that has this structure; weights that are new have no meaning yet.

        Args:
            graph_module: The base, or a graph that grew from it by other events.
            optimizer: The optimizer that trains it, or several; they go on with the copy.

        Raises:
            TraceError: If the graph is of another base, or the edits cannot be made; nothing has changed then.
        """
        try:
            made = replay(graph_module, self.edits, optimizer)
        except FxgrowError as error:
            raise _does_not_fit(f" ({error})") from error
        if digest(made) != self.digest:
            raise _does_not_fit("")
        update_record(made, history=self.history)
        return made


def _does_not_fit(why: str) -> TraceError:
    what = f"the edits of this state make another model of this base{why}"
    fix = "make the model as it was made for the run that wrote the state"
    return TraceError(what, where="_extra_state", fix=fix)
