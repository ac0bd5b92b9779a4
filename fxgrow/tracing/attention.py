"""nn.MultiheadAttention while it is traced: its operations one by one, so that growth reaches its projections."""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def written_out(function: FunctionType) -> Callable[..., Any]:
    """Return ``F.multi_head_attention_forward`` in a form that computes on proxies.

    Torch's own hands over to the first argument that is no plain tensor, and a trace has one node for all of it. The
    code that runs here is torch's. Dropout is called in both modes, as layers do, and told which one it is.
    """
    signature = inspect.signature(function)

    def multi_head_attention_forward(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        training, call.arguments["training"] = call.arguments["training"], True

        def dropout(weights: Tensor, p: float) -> Tensor:
            return F.dropout(weights, p, training)

        def scaled_dot_product_attention(
            query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, p: float, is_causal: bool
        ) -> Tensor:
            return F.scaled_dot_product_attention(query, key, value, mask, p if training else 0.0, is_causal)

        names = {
            **function.__globals__,
            "has_torch_function": lambda _: False,
            "dropout": dropout,
            "scaled_dot_product_attention": scaled_dot_product_attention,
        }
        return FunctionType(function.__code__, names, function.__name__)(*call.args, **call.kwargs)

    return multi_head_attention_forward
