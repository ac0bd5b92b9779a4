"""The little that torch's dispatcher does not say of an operation, each line with its reason."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.fx as fx
from torch._ops import OpOverload

from fxgrow.primitives.modules import qualified_name

#: Torch tags what can draw random numbers; these arguments say that a call does not. The tag alone would make every
#: attention random, and what an operation is made of does not tell: LSTM's parts have no dropout, by an error in
#: `_rnn_helper` of torch/_decomp/decompositions.py (``num_layers < i - 1``).
_CHANCES = ("dropout_p", "dropout")
_MODES = ("train", "training")

#: Code that does nothing but compute. What others wrote may print, count or log, which is no operation of torch.
_OWN_HOMES = ("torch.", "math.", "_operator.", "builtins.TensorBase.", "fxgrow.")
_OWN_BUILTINS = (getattr, abs, bool, float, int, len, max, min, round, sum)

#: Operations made of others whose schema declares no view, and which return one for some inputs.
SECRET_VIEWS = frozenset({"atleast_1d", "atleast_2d", "atleast_3d", "broadcast_tensors", "einsum", "meshgrid",
                          "repeat_interleave"})  # fmt: skip
#: Functions that write to a tensor after their first, in code around the operation whose schema they share a name with:
#: running statistics, and embeddings that ``max_norm`` scales.
SECRET_WRITES = frozenset({"batch_norm", "instance_norm", "embedding", "embedding_bag"})
#: What asks for a tensor's numbers and returns none, without a tag that says so.
SECRET_READS = frozenset({"is_nonzero"})
#: Elementwise functions that torch does not tag as pointwise.
UNTAGGED = frozenset({"hardswish", "hardswish_", "log_sigmoid", "log_sigmoid_forward"})
#: Elementwise functions that make no real numbers, of which a schema says nothing.
TRUTHS = frozenset({"eq", "ge", "gt", "isfinite", "isinf", "isnan", "le", "lt", "ne", "signbit"})
#: Attributes are no operations; these say nothing of the numbers.
SIZE_ATTRIBUTES = frozenset({"device", "dtype", "is_cuda", "itemsize", "layout", "ndim", "shape"})


def draws(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Say whether a call of an operation of torch draws random numbers."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    given = {argument.name: argument.default_value for argument in func._schema.arguments}
    given |= {**dict(zip(given, args, strict=False)), **kwargs}
    idle = any(given.get(name) == 0 for name in _CHANCES) or any(given.get(name) is False for name in _MODES)
    return not idle and not (given.get("p") == 0 and "train" in given)


def operation_name(func: OpOverload) -> str:
    """Return the name of an operation of torch, of its in-place form too: ``add`` for ``aten::add_.Tensor``."""
    return func._schema.name.partition("::")[2].removesuffix("_")


def is_pointwise(func: OpOverload) -> bool:
    """Say whether an operation of torch applies one function to the numbers at each place."""
    return torch.Tag.pointwise in func.tags or func._schema.name.partition("::")[2] in UNTAGGED


def runs_foreign_code(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether a node calls code that torch does not own."""
    if node.op == "call_module":
        modules = graph_module.get_submodule(str(node.target)).modules()
        return not all(type(module).__module__.startswith(("torch.nn.modules.", "fxgrow.")) for module in modules)
    if node.op != "call_function" or isinstance(node.target, OpOverload):
        return False
    return node.target not in _OWN_BUILTINS and not qualified_name(node.target).startswith(_OWN_HOMES)


def is_arithmetic(node: fx.Node) -> bool:
    """Say whether a node is an operator of Python on numbers, which torch does not always call by the same name."""
    own = getattr(node.target, "__module__", "") == "_operator"
    return own and node.target not in (operator.getitem, operator.setitem)
