"""Where in the model a node comes from."""

import torch.fx as fx

from fxgrow.primitives.modules import qualified_name


def module_path(node: fx.Node) -> str:
    """Return the path of the module in whose forward `node` was recorded; the path called, for a leaf module."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def name_of(node: fx.Node) -> str:
    """Return how messages call a value: by the operation that makes it, and the module in which that is.

    Example:
        ``relu in blocks.0``, ``blocks.0.mlp.fc1``, or ``x`` for an input.
    """
    operation = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    path = module_path(node)
    return f"{operation} in {path}" if path and path != operation else str(operation)


def spelled_operation(node: fx.Node) -> str:
    """Return what `node` does, as a reader of the model's code knows it; "it" for a call of a module."""
    if node.op == "call_function":
        return qualified_name(node.target).replace("torch._C._nn.", "torch.nn.functional.")
    return f"Tensor.{node.target}" if node.op == "call_method" else "it"
