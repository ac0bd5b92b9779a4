"""Where in the model a node comes from."""

import re

import torch.fx as fx

from fxgrow.primitives.modules import qualified_name

_NUMBERED = re.compile(r"((?!.*_pseudo_)(?:|.*_))(\d+)")


def numbered(name: str) -> tuple[str, int] | None:
    """Split the name of one of several like blocks into stem and number; None for any other name.

    Blocks are numbered as in ``blocks.3`` or, in torchvision, ``layers.encoder_layer_3``; pseudo-layers are no blocks.

    Example:
        >>> numbered("3"), numbered("encoder_layer_3"), numbered("fc1"), numbered("fc1_pseudo_0")
        (('', 3), ('encoder_layer_', 3), None, None)
    """
    found = _NUMBERED.fullmatch(name)
    return (found.group(1), int(found.group(2))) if found else None


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
