"""What a module does beside its forward, and a graph of it would not: hooks, extra state, and work in ``train()``."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.execution.preservation import preserved
from fxgrow.tracing.untraced import untraced

_PLAIN = (bool, int, float, str, type(None))


def obstacle(module: nn.Module) -> str | None:
    """Say why `module` must stay whole, in words that follow its name; None where nothing but its forward matters."""
    if module._backward_hooks or module._backward_pre_hooks:
        return "has backward hooks, which a graph does not call"
    if type(module).get_extra_state is not nn.Module.get_extra_state:
        return "has extra state (get_extra_state), which a graph does not hold"
    return _work_of_train(module)


@contextmanager
def watched_hooks(module: nn.Module, report: Callable[[str], None]) -> Iterator[None]:
    """Report the forward hooks of `module` that are called meanwhile and only look on, or write in place.

    A hook that returns a value is part of the forward, and recorded with it. One that returns none would be called by
    the tracer and never again.
    """
    with ExitStack() as stack:
        for hooks in (module._backward_pre_hooks, module._backward_hooks):  # an obstacle, and nothing for a proxy
            stack.callback(hooks.update, dict(hooks))
            hooks.clear()
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            stack.callback(hooks.update, dict(hooks))
            for key, hook in hooks.items():
                hooks[key] = _watched(hook, report)
        yield


def _watched(hook: Callable[..., Any], report: Callable[[str], None]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        result = hook(*args, **kwargs)
        if result is None:
            report("has a forward hook that looks on, which a graph does not call")
        return result

    return call


def _work_of_train(module: nn.Module) -> str | None:
    """Say what an overridden ``train()`` or ``eval()`` does beside setting the mode of all modules, as it stands."""
    kind = type(module)
    if kind.train is nn.Module.train and kind.eval is nn.Module.eval:
        return None
    with untraced(), preserved(module), torch.no_grad():
        before = _state(module)
        for mode in (not module.training, module.training):
            module.train(mode)
            other = next((path for path, part in module.named_modules() if part.training is not mode), None)
            if other is not None:
                return f"leaves {other or 'itself'} in {'eval' if mode else 'train'} mode in its train()"
            after = _state(module)
            changed = [key for key, value in after.items() if key not in before or not _same(before[key], value)]
            if changed:
                return f"changes {changed[0]} in its train()"
    return None


def _state(module: nn.Module) -> dict[str, object]:
    """Return a copy of the tensors of `module`, and its plain attributes but for the mode."""
    tensors = {name: tensor.clone() for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    attributes = {
        f"{path}.{name}".lstrip("."): value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, _PLAIN) and name != "training"
    }
    return {**tensors, **attributes}


def _same(first: object, second: object) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    return type(first) is type(second) and first == second
