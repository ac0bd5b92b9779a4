"""Build the base model of a file from where it came from."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from fxgrow.errors import FileError, did_you_mean
from fxgrow.record.record import Origin

#: Arguments of timm.create_model that read other files or the network: no file of ours has a say in them.
REFUSED_ARGUMENTS = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
)

#: how the base of a file is given
GIVE_BASE = "fxgrow.load(path, base=model), or --base MODULE:CALLABLE"


def build_base(origin: Origin | None, where: str) -> nn.Module:
    """Build the base model from its origin, with random weights.

    Raises:
        FileError: If the origin is not known, or timm cannot build it.
    """
    fix = f"give the model that was traced: {GIVE_BASE}"
    if origin is None:
        raise FileError("it does not say where its base model comes from", where=where, fix=fix)
    if origin.source != "timm":
        raise FileError(f"its base comes from {origin.spelling}, an unknown source", where=where, fix=fix)
    return create_timm_model(origin.name, origin.arguments, where=where)


def create_timm_model(name: str, arguments: Mapping[str, Any], *, where: str, pretrained: bool = False) -> nn.Module:
    """Build a model of timm's registry; names that lead out of the registry, to a hub or a folder, are refused.

    Raises:
        FileError: If timm is not installed, has no such model, or refuses the arguments.
    """
    timm = _import_timm(where)
    if not timm.is_model(name):
        fix = f"{did_you_mean(name, timm.list_models())}timm.list_models() lists the names"
        raise FileError(f"timm {timm.__version__} has no model {name!r}", where=where, fix=fix)
    refused = sorted(REFUSED_ARGUMENTS & set(arguments))
    if refused:
        fix = "leave it out; pretrained weights are asked for when a model is traced"
        raise FileError(f"the argument {refused[0]} reads other files", where=where, fix=fix)
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError, KeyError, OSError) as error:
        spelled = ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "no arguments"
        what = f"timm cannot build {name} with {spelled} ({' '.join(str(error).split())[:120]})"
        raise FileError(what, where=where, fix="check the arguments") from error
    return model


def _import_timm(where: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise FileError(
            "it needs timm, which is not installed", where=where, fix="pip install 'fxgrow[timm]'"
        ) from error
    module: ModuleType = timm
    return module
