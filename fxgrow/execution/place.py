"""A place in a model: where a part of it lies that is computed in another way while the rest stays what it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxgrow.errors import FxgrowError, TraceError, first_line
from fxgrow.execution.calling import Inputs
from fxgrow.execution.preservation import preserved
from fxgrow.primitives.arguments import check_fields
from fxgrow.primitives.unwrapping import bare


@dataclass(frozen=True, eq=False)
class Place:
    """The submodule at a path of a model; the model itself at the empty path.

    Args:
        model: What is run, as training runs it, out of DistributedDataParallel and its like.
        path: Module path of the part.

    Raises:
        TraceError: If nothing lies there.
    """

    model: nn.Module
    path: str

    def __post_init__(self) -> None:
        check_fields(self, TraceError)
        try:
            self.module  # noqa: B018  # it is looked up
        except AttributeError as error:
            known = ", ".join(name for name, _ in self.model.named_children())
            fix = f"give the path of a submodule; at the top there are {known}"
            raise TraceError("no submodule lies there", where=repr(self.path), fix=fix) from error

    @classmethod
    def of(cls, model: nn.Module, part: nn.Module) -> "Place":
        """Return the place of a part in a model, through what wraps either of them.

        Raises:
            TraceError: If it does not lie there.
        """
        inside = bare(part)
        path = next((path for path, module in bare(model).named_modules() if bare(module) is inside), None)
        if path is None:
            fix = "give the model of which it is a submodule"
            raise TraceError("the part that grows is none of its submodules", where=type(model).__name__, fix=fix)
        return cls(bare(model), path)

    @property
    def module(self) -> nn.Module:
        """What lies there."""
        return self.model.get_submodule(self.path)

    def put(self, module: nn.Module) -> None:
        """Put another module there."""
        parent, _, name = self.path.rpartition(".")
        self.model.get_submodule(parent)._modules[name] = module

    @contextmanager
    def computing(self, function: Callable[..., Any]) -> Iterator[None]:
        """Let `function` compute what the part returns while the model runs; hooks of the part run too.

        Compiled code that has the part inlined stands back.
        """
        attributes = self.module.__dict__
        own = {name: attributes[name] for name in ("forward",) if name in attributes}
        attributes["forward"] = function
        try:
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            del attributes["forward"]
            attributes.update(own)

    def inputs(self, given: Any) -> Inputs:
        """Run the model and return what the part is given.

        Args:
            given: The model's inputs: a tensor, a tuple or a dict. The model runs in the mode that it is in.

        Raises:
            TraceError: If the model does not run, or does not call the part.
        """
        found: list[Inputs] = []
        hook = self.module.register_forward_pre_hook(
            lambda _, args, kwargs: found.append(Inputs(args, kwargs)), with_kwargs=True
        )
        try:
            with preserved(self.model), torch.no_grad():
                Inputs.of(self.model, given).call(self.model)
        except FxgrowError:
            raise
        except Exception as error:  # the model's own code runs here, and it may raise anything
            what = f"the model does not run on these inputs: {first_line(error)}"
            fix = "give inputs that the whole model takes"
            raise TraceError(what, where=type(self.model).__name__, fix=fix) from error
        finally:
            hook.remove()
        if not found:
            raise TraceError("the model does not call it", where=self.path, fix="name a submodule that is called")
        return found[0]
