"""Which values of a graph may share memory, decided from the operations alone and on the safe side."""

import operator
from collections.abc import Iterator

import torch.fx as fx
from torch import nn
from torch._ops import OpOverload

from fxgrow.graph.inplace import inplace_position
from fxgrow.primitives.modules import qualified_name

_FRESH_OPERATORS = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
    operator.matmul, operator.neg, operator.invert, operator.and_, operator.or_, operator.xor, operator.eq, operator.ne,
    operator.lt, operator.le, operator.gt, operator.ge,
}  # fmt: skip
#: torch functions and methods, without a trailing underscore, whose result is always new memory
_FRESH_NAMES = frozenset({
    "abs", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "add", "addmm", "argmax", "argmin", "avg_pool1d",
    "avg_pool2d", "baddbmm", "batch_norm", "bmm", "cat", "clamp", "clone", "concat", "conv1d", "conv2d",
    "conv3d", "conv_transpose1d", "conv_transpose2d", "cos", "cumsum", "div", "einsum", "elu", "embedding",
    "exp", "gelu", "glu", "group_norm", "hardsigmoid", "hardswish", "hardtanh", "instance_norm",
    "layer_norm", "leaky_relu", "linear", "log", "log_softmax", "logsumexp",
    "masked_fill", "matmul", "max_pool1d", "max_pool2d",
    "maximum", "mean", "minimum", "mish", "mm", "mul", "neg", "norm", "normalize", "pad", "pow", "prelu",
    "prod", "relu", "relu6", "rms_norm", "rsqrt", "scaled_dot_product_attention", "selu", "sigmoid", "silu",
    "sin", "softmax", "softplus", "sqrt", "stack", "std", "sub", "sum", "tanh", "tril", "triu", "true_divide",
    "var", "where", "zeros_like", "ones_like",
})  # fmt: skip
#: what reads only the shape of a tensor, or its dtype or device
_SHAPE_METHODS = frozenset({"size", "dim", "numel", "ndimension", "element_size", "is_floating_point", "stride"})
_SHAPE_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "is_cuda"})
_ALIASING_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


def allocates(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether the value of `node` is certainly new memory, shared with none of its inputs."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        own = type(module).__module__.startswith("torch.nn.modules.") and not isinstance(module, _ALIASING_MODULES)
        return own and getattr(module, "inplace", False) is not True
    if node.op == "call_method":
        return str(node.target) in _FRESH_NAMES
    if node.op != "call_function":
        return False
    if inplace_position(node) is not None:
        return False
    if isinstance(node.target, OpOverload):  # its schema knows of views, but not that dropout may return its input
        schema = node.target._schema
        return schema.name.partition("::")[2] in _FRESH_NAMES and not any(value.alias_info for value in schema.returns)
    name = qualified_name(node.target)
    return node.target in _FRESH_OPERATORS or (name.startswith("torch.") and name.rpartition(".")[2] in _FRESH_NAMES)


def reads_only_shape(node: fx.Node) -> bool:
    """Say whether `node` looks at the shape, dtype or device of its input and at none of its values."""
    if node.op == "call_method":
        return str(node.target) in _SHAPE_METHODS
    return node.op == "call_function" and node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES


def may_share_memory(graph_module: fx.GraphModule, value: fx.Node, known: dict[fx.Node, int]) -> set[fx.Node]:
    """Return the nodes among `known` whose value may share memory with `value`, itself included."""
    found, pending = {value}, [value]
    while pending:
        for neighbour in _neighbours(graph_module, pending.pop()):
            if neighbour in known and neighbour not in found:
                found.add(neighbour)
                pending.append(neighbour)
    return found


def _neighbours(graph_module: fx.GraphModule, node: fx.Node) -> Iterator[fx.Node]:
    if not allocates(graph_module, node):
        yield from node.all_input_nodes
    for user in node.users:
        if not allocates(graph_module, user) and not reads_only_shape(user) and user.op != "output":
            yield user
