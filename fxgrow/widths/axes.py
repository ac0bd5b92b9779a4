"""Axes: what the dimensions of tensors are made of, so that hidden widths can be followed through reshapes.

A dimension is a tuple of axes, the outermost first: after ``qkv.reshape(B, N, 3, heads, dim)`` the output rows of qkv
are three axes, and ``reshape(B, N, heads * dim)`` makes one dimension of two. Axes that must have one size are one axis
(union-find); an axis whose size something depends on that fxgrow cannot change is *frozen*, with the reason.
A dimension of size 1 is the empty tuple: it is broadcast.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence

Dim = tuple["Axis", ...]


class Axis:
    """One factor of a dimension. Compare axes by `root`."""

    def __init__(self, size: int, *, frozen: str = "", static: bool = False) -> None:
        self.size = size
        #: why its size must stay; empty where it may change
        self.frozen = frozen
        #: whether its size is the model's and not the input's
        self.static = static
        self._parent: Axis | None = None
        self._parts: Dim = ()

    @property
    def root(self) -> "Axis":
        """The axis that stands for all that were unified with it."""
        axis = self
        while axis._parent is not None:
            axis = axis._parent
        if axis is not self:
            self._parent = axis
        return axis

    def split(self, outer: int) -> None:
        """Make it two axes, the outer one of size `outer`."""
        root = self.root
        inner = root.size // outer
        root._parts = tuple(Axis(size, frozen=root.frozen, static=root.static) for size in (outer, inner))

    def parts(self) -> Dim:
        """Return the axes that it was split into; itself where it was not."""
        root = self.root
        return tuple(leaf for part in root._parts for leaf in part.parts()) if root._parts else (root,)


def dim_of(size: int, *, frozen: str = "", static: bool = False) -> Dim:
    """Return a dimension of one new axis."""
    return () if size == 1 else (Axis(size, frozen=frozen, static=static),)


def leaves(dim: Dim) -> Dim:
    """Return the unsplit axes of a dimension, outermost first."""
    return tuple(leaf for axis in dim for leaf in axis.parts())


def resizable(dim: Dim) -> Dim:
    """Return the unsplit axes of a dimension whose size may change."""
    return tuple(axis for axis in leaves(dim) if not axis.frozen)


def size_of(dim: Dim) -> int:
    """Return the size of a dimension."""
    return math.prod(axis.root.size for axis in dim)


def freeze(dims: Iterable[Dim], reason: str) -> None:
    """Freeze all axes of some dimensions; the first reason holds."""
    for dim in dims:
        for axis in leaves(dim):
            axis.frozen = axis.frozen or reason


def unify(first: Dim, second: Dim, reason: str) -> Dim:
    """Make two dimensions one, splitting axes where one is cut finer; return it.

    A dimension of size 1 is broadcast to the other. Where the sizes do not match, both are frozen.
    """
    if not first or not second:
        return first or second
    left, right = deque(leaves(first)), deque(leaves(second))
    while left and right:
        one, other = left.popleft(), right.popleft()
        if one is other:
            continue
        if one.size == other.size:
            other.frozen, other.static = other.frozen or one.frozen, other.static and one.static
            one._parent = other
        elif max(one.size, other.size) % min(one.size, other.size):
            freeze((first, second), reason)
            return first
        else:
            larger, queue = (one, left) if one.size > other.size else (other, right)
            larger.split(min(one.size, other.size))
            queue.extendleft(reversed(larger.parts()))
            (left if queue is right else right).appendleft(other if larger is one else one)
    if left or right:
        freeze((first, second), reason)
    return first


def reshape(dims: Sequence[Dim], sizes: Sequence[int], reason: str) -> tuple[Dim, ...]:
    """Return the dimensions after a row-major reshape to `sizes`, splitting axes where it cuts them.

    Where a cut goes through an axis that it does not divide, all are frozen.
    """
    queue = deque(axis for dim in dims for axis in leaves(dim))
    shaped: list[Dim] = []
    for size in sizes:
        taken: list[Axis] = []
        while size > 1 and queue:
            axis = queue.popleft()
            if size % axis.size == 0:
                taken.append(axis)
                size //= axis.size
            elif axis.size % size == 0:
                axis.split(size)
                queue.extendleft(reversed(axis.parts()))
            else:
                break
        if size > 1:
            freeze(dims, reason)
            return tuple(dim_of(size, frozen=reason) for size in sizes)
        shaped.append(tuple(taken))
    return tuple(shaped)
