"""Where in the model a node comes from, and what an error said, in one line each."""

import torch.fx as fx


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without the full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def module_path(node: fx.Node) -> str:
    """Return the path of the module in whose forward `node` was recorded; the path called, for a leaf module."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""
