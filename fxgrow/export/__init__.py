"""A model in the formats of other tools."""

from typing import TYPE_CHECKING

from fxgrow.lazy import attach

if TYPE_CHECKING:
    from fxgrow.export.model_explorer import export_model_explorer as export_model_explorer
    from fxgrow.export.programs import export_onnx as export_onnx
    from fxgrow.export.programs import export_pt2 as export_pt2
    from fxgrow.export.source.writing import export_source as export_source
    from fxgrow.export.tensorboard import log_to_tensorboard as log_to_tensorboard
    from fxgrow.export.tensors import export_safetensors as export_safetensors

_HOMES = {
    "export_model_explorer": "fxgrow.export.model_explorer",
    "export_onnx": "fxgrow.export.programs",
    "export_pt2": "fxgrow.export.programs",
    "export_safetensors": "fxgrow.export.tensors",
    "export_source": "fxgrow.export.source.writing",
    "log_to_tensorboard": "fxgrow.export.tensorboard",
}

__all__ = list(_HOMES)
__getattr__, __dir__ = attach(__name__, _HOMES)
