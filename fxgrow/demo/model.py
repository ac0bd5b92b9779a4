"""The demo's vision transformers: the narrow base, and the uniform model of a given size."""

from typing import Any

import torch
import torch.fx as fx
from torch import nn

from fxgrow.demo.settings import Shape
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.annotations import annotation
from fxgrow.record.record import Origin
from fxgrow.tracing import trace

NAME = "vit_tiny_patch16_224"
IMAGE_SIZE, CHANNELS, CLASSES = 28, 1, 10
NARROW = 2.0  #: the base's mlp_ratio; DeiT has 4
_EXAMPLES = 2


def build(shape: Shape, mlp_ratio: float, *, seed: int) -> fx.GraphModule:
    """Return a traced vision transformer with random weights; the global random state is not touched."""
    import timm

    arguments: dict[str, Any] = {
        "img_size": IMAGE_SIZE,
        "in_chans": CHANNELS,
        "num_classes": CLASSES,
        "patch_size": shape.patch_size,
        "embed_dim": shape.embed_dim,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": mlp_ratio,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model(NAME, **arguments)
        example = torch.randn(_EXAMPLES, CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
        return trace(model, example, origin=Origin("timm", NAME, arguments))


def build_uniform(shape: Shape, parameters: int, *, seed: int) -> fx.GraphModule:
    """Return the model whose MLPs are all equally wide, with the width that comes closest to `parameters`."""
    base = parameter_count(build(shape, NARROW, seed=seed))
    per_unit = shape.depth * (2 * shape.embed_dim + 1)  # a row of fc1, its bias, and a column of fc2, in every block
    width = int(NARROW * shape.embed_dim) + round((parameters - base) / per_unit)
    # timm takes int(embed_dim * mlp_ratio); the half keeps rounding from costing a unit
    return build(shape, (width + 0.5) / shape.embed_dim, seed=seed)


def flops(graph_module: fx.GraphModule) -> int:
    """Return the FLOPs of one image, two for a multiply-add."""
    return sum(annotation(node).get("flops", 0) for node in graph_module.graph.nodes) // _EXAMPLES
