"""The record of one node: what it does besides returning a value."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

Places = frozenset[int]


@dataclass(frozen=True)
class Operation:
    """What a node may do to memory, to the state of the model and to the random stream, in train or in eval mode.

    Places are positions in the node's `all_input_nodes`, so that equal nodes of two graphs have equal records.
    """

    reads: Places = frozenset()  #: inputs whose numbers it looks at, and not only their shape, dtype or device
    writes: Places = frozenset()  #: inputs that it may overwrite, wholly or in part
    shares: Places = frozenset()  #: inputs whose memory its value may show
    shows_state: bool = False  #: whether its value may show the memory of a parameter or buffer of its module
    #: parameters, buffers and attributes of its module that it may change, by their names in it
    moves: frozenset[str] = frozenset()
    draws: bool = False  #: whether it may draw from the global random state, of torch, Python or numpy
    #: whether its value is a tensor of real numbers, each a function of the numbers at the same place of its inputs
    pointwise: bool = False
    #: the names of the operations of torch that it calls, whole and in parts, in-place forms by their namesakes
    calls: frozenset[str] = frozenset()
    #: whether it runs code that torch does not own, which may do what no operation of torch shows: print, count, log
    foreign: bool = False
    #: whether torch knows all this, from a run or from schemas; where it does not, the worst is assumed
    known: bool = True

    def either(self, other: "Operation") -> "Operation":
        """Return what a node may do that does one thing in one mode and the other in the other."""
        return Operation(
            reads=self.reads | other.reads,
            writes=self.writes | other.writes,
            shares=self.shares | other.shares,
            shows_state=self.shows_state or other.shows_state,
            moves=self.moves | other.moves,
            draws=self.draws or other.draws,
            pointwise=self.pointwise and other.pointwise,
            calls=self.calls | other.calls,
            foreign=self.foreign or other.foreign,
            known=self.known and other.known,
        )


def any_of(operations: Iterable[Operation]) -> Operation:
    """Return what a node may do that does one of several things."""
    return reduce(Operation.either, operations)
