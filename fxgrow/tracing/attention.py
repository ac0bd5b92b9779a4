"""nn.MultiheadAttention while it is traced: its operations one by one, so that growth reaches its projections."""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import transformer

PADDING = "padded positions of an nn.TransformerEncoder keep their values where torch writes zeros without gradients"


def written_out(function: Any) -> Callable[..., Any]:
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


def replace_mask_checks(patcher: Any) -> None:
    """Let masks be proxies, as long as torch.fx's `patcher` holds.

    Whether a mask is the causal one is only a hint, and depends on its values: it is not looked for.
    """
    patcher.patch(vars(F), "_none_or_dtype", _reading_dtype(F._none_or_dtype), deduplicate=False)
    detect = transformer._detect_is_causal_mask
    patcher.patch(vars(transformer), "_detect_is_causal_mask", _looking_at_no_value(detect), deduplicate=False)


def _reading_dtype(original: Callable[..., Any]) -> Callable[..., Any]:
    def none_or_dtype(value: Any) -> Any:
        return value.dtype if isinstance(value, fx.Proxy) else original(value)

    return none_or_dtype


def _looking_at_no_value(original: Callable[..., bool]) -> Callable[..., bool]:
    def is_causal_mask(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
        return is_causal is True if isinstance(mask, fx.Proxy) else original(mask, is_causal, size)

    return is_causal_mask


def writes_over_padding(module: nn.Module) -> bool:
    """Say whether `module` may have a fast path for inference that writes zeros at padded positions."""
    return isinstance(module, nn.TransformerEncoder) and getattr(module, "use_nested_tensor", False)
