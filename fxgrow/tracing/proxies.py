"""What stands for a value while a model is traced: a tensor for a tensor, so that code which asks takes it for one."""

import operator
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
import torch.fx as fx
from torch import Tensor, nn
from torch.fx.immutable_collections import immutable_dict
from torch.fx.node import map_aggregate
from torch.fx.proxy import Attribute

if TYPE_CHECKING:
    from fxgrow.tracing.tracer import ModelTracer


#: torch.fx's proxy but for its ``__call__``: no tensor and no number is callable, and code asks for that
_OMITTED = ("__call__", "__dict__", "__weakref__")
_OF_PROXY = {name: value for name, value in vars(fx.Proxy).items() if name not in _OMITTED}
_Uncallable: Any = type("Proxy", (), {**_OF_PROXY, "__hash__": object.__hash__})


class ValueProxy(_Uncallable):  # type: ignore[misc]
    """A proxy that can be counted, used as an index, compared where sizes decide, and written into."""

    #: isinstance asks for it too, and finds a proxy of torch.fx
    __class__ = property(lambda self: fx.Proxy)

    def __getattr__(self, k: str) -> Any:
        return None if _attribute(self, k) is None else _ValueAttribute(self, k)

    def __len__(self) -> int:
        tracer: ModelTracer = self.tracer
        return tracer.values.length(self.node)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __index__(self) -> int:
        return int(_decided(self))

    def __int__(self) -> int:
        return int(_decided(self))

    def __float__(self) -> float:
        return float(_decided(self))


class _ValueAttribute(ValueProxy, Attribute):
    """An attribute of a value, as ``x.shape``, of the same kind."""

    __init__, node = Attribute.__init__, Attribute.node


#: what a tensor has and a proxy has not: attributes that are recorded when they are read
_OF_TENSORS = frozenset(name for name in dir(Tensor) if not name.startswith("__")) - frozenset(dir(fx.Proxy))
_TENSORS = frozenset({"T", "mT", "H", "mH", "data", "real", "imag"})  #: attributes that are tensors
#: nn.MultiheadAttention asks for the first; torch warns whoever asks an inner value for the second
_DECIDED = {"is_nested": False, "grad": None}


class _ProxyOfTensor(fx.Proxy, Tensor):  # type: ignore[misc]
    """What isinstance takes a `TensorProxy` for."""


class TensorProxy(ValueProxy, Tensor):
    """The proxy of a tensor, itself a tensor: ``isinstance`` and ``torch.is_tensor`` say so, as in the model's own run.

    Its data is that of a tensor on the meta device, which shows where code takes it past torch's dispatch. Python finds
    the attributes of Tensor on it before ``__getattr__`` is asked, so they are sent there.
    """

    __class__ = property(lambda self: _ProxyOfTensor)

    def __new__(cls, node: fx.Node, tracer: fx.Tracer, value: Tensor) -> "TensorProxy":
        """Create a tensor of the shape and dtype of `value`."""
        data = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return Tensor._make_subclass(cls, data)

    def __init__(self, node: fx.Node, tracer: fx.Tracer, value: Tensor) -> None:
        ValueProxy.__init__(self, node, tracer)  # type: ignore[call-arg]
        self._is_param = isinstance(value, nn.Parameter)  # what isinstance asks for

    def __getattribute__(self, name: str) -> Any:
        if name not in _OF_TENSORS:
            return object.__getattribute__(self, name)
        if name in _DECIDED:
            return _DECIDED[name]
        if name in _TENSORS:
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return ValueProxy.__getattr__(self, name) if name == "grad_fn" else _ValueAttribute(self, name)

    def __getattr__(self, k: str) -> Any:
        raise AttributeError(f"a tensor has no attribute {k!r}")

    __format__ = object.__format__


def _attribute(proxy: fx.Proxy, name: str) -> Any:
    """Return an attribute of what `proxy` stands for, as the example inputs have it, and record nothing."""
    if isinstance(proxy, Attribute):
        return getattr(_attribute(proxy.root, proxy.attr), name, proxy)
    tracer: ModelTracer = proxy.tracer  # type: ignore[assignment]
    return getattr(tracer.values.example(proxy.node), name, proxy)


def proxy_of(node: fx.Node, tracer: fx.Tracer, value: Any) -> Any:
    """Return what stands for `node`, whose value is like `value`."""
    return TensorProxy(node, tracer, value) if isinstance(value, Tensor) else ValueProxy(node, tracer)


def _decided(proxy: fx.Proxy) -> Any:
    tracer: ModelTracer = proxy.tracer  # type: ignore[assignment]
    return tracer.decide(proxy)


def holds_proxy(value: Any) -> bool:
    """Say whether `value` is a proxy, or a tuple, list, dict or slice with one in it."""
    found: list[Any] = []
    map_aggregate(value, found.append)
    return any(isinstance(item, fx.Proxy) for item in found)


def is_own_dict(value: Any) -> bool:
    """Say whether `value` is a dict of a class of its own that can be made of a plain one."""
    if not isinstance(value, dict) or isinstance(value, defaultdict | immutable_dict) or type(value) is dict:
        return False
    try:
        return list(type(value)(dict(value))) == list(value)
    except Exception:  # somebody's class
        return False
