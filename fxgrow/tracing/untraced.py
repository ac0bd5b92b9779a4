"""Code that must not notice that something is being traced: modules that run for their shapes, and lazy imports."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch.fx import _symbolic_trace


@contextmanager
def untraced() -> Iterator[None]:
    """Take back, for a moment, all that is replaced while torch.fx traces, in torch and in the modules it traces."""
    patcher = _symbolic_trace.CURRENT_PATCHER
    _symbolic_trace.CURRENT_PATCHER = None  # what runs here may come here again, or trace something itself
    if patcher is not None:
        patcher.revert_all_patches()
    try:
        yield
    finally:
        if patcher is not None:
            patcher.reapply_all_patches()
        _symbolic_trace.CURRENT_PATCHER = patcher


@contextmanager
def untraced_imports() -> Iterator[None]:
    """Run the code of every module that is imported meanwhile as if nothing were traced.

    A module that is imported from inside a forward, as torch._dynamo is, would otherwise keep for the rest of the
    process what stood in torch at that moment.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds modules as the other finders do, and has them loaded untraced."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find is not None and finder is not self else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(Loader):
    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.loader
        with untraced():
            self.loader.exec_module(module)
