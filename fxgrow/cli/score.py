"""`fxgrow score`: measure the scores of a model's neurons on images."""

import argparse
from typing import TYPE_CHECKING, Any

from fxgrow.cli.parser import add_loading, add_output, add_verb
from fxgrow.errors import DataError

if TYPE_CHECKING:
    import torch.fx as fx

    from fxgrow.cli.parser import Verbs

_EXAMPLE = """
fxgrow score model.pt --data mnist5k -o scored.pt
fxgrow score model.pt --data imagefolder:photos --samples 512 -o scored.pt
"""


def add_parser(verbs: "Verbs") -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "score",
        run,
        summary="measure the scores of a model's neurons on images",
        description="The loss is the mean cross entropy. The scores are shown, and written with the model if -o says "
        "where.",
        example=_EXAMPLE,
    )
    parser.add_argument("model", metavar="FILE", help="a model that fxgrow wrote")
    parser.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="mnist5k, digits, mnist1d, imagefolder:PATH, cifar10:PATH or cifar100:PATH",
    )
    parser.add_argument("--score", default="eigen", metavar="NAME", help="which score (default: %(default)s)")
    parser.add_argument(
        "--sites", action="append", metavar="PATTERN", help="score only these sites, as in 'blocks.*.mlp.*'"
    )
    parser.add_argument("--samples", "--images", type=int, default=256, help="how many images (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images in a batch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of images (default: %(default)s)")
    add_loading(parser)
    add_output(parser, required=False)


def run(args: argparse.Namespace) -> None:
    """Score the model, show the tree, and write it if asked."""
    import torch.nn.functional as F

    import fxgrow
    from fxgrow.cli.models import load_model, write_model
    from fxgrow.cli.output import output_console, show
    from fxgrow.files import check_output
    from fxgrow.inspection import view_tree

    for name in ("samples", "batch_size"):
        if getattr(args, name) < 1:
            raise DataError("it is below 1", where=f"--{name.replace('_', '-')}", fix="give 1 or more")
    if args.output:
        check_output(args.output, overwrite=args.force)
    graph_module = load_model(args.model, args)
    batches = _batches(graph_module, args)
    fxgrow.analyze(graph_module, F.cross_entropy, batches, score=args.score, sites=args.sites, seed=args.seed)
    console = output_console(args)
    show(view_tree(graph_module), args)
    if args.output:
        write_model(graph_module, args, console)
    else:
        console.print("\nthe scores were not written; give -o FILE to keep them")


def _batches(graph_module: "fx.GraphModule", args: argparse.Namespace) -> Any:
    """Return batches of randomly chosen training images of the size that the model takes."""
    import torch
    from torch.utils.data import DataLoader, Subset

    from fxgrow.data import open_source

    channels, *size = _image_shape(graph_module, args.model)
    dataset = open_source(args.data, train=True, image_size=(size[0], size[1]), channels=channels, seed=args.seed)
    classes = _output_classes(graph_module)
    if classes is not None and dataset.num_classes > classes:
        what = f"it has {dataset.num_classes} classes, and the model tells {classes} apart"
        fix = f"trace the model with --set num_classes={dataset.num_classes}"
        raise DataError(what, where=f"--data {args.data}", fix=fix)
    generator = torch.Generator().manual_seed(args.seed)
    chosen = torch.randperm(len(dataset), generator=generator)[: args.samples].tolist()
    return DataLoader(Subset(dataset, chosen), batch_size=args.batch_size)


def _image_shape(graph_module: "fx.GraphModule", where: str) -> tuple[int, ...]:
    from fxgrow.graph.network import shape_of

    shapes = [shape_of(node) for node in graph_module.graph.find_nodes(op="placeholder")]
    images = [shape for shape in shapes if shape is not None and len(shape) == 4]
    if len(images) != 1:
        fix = "score it in Python with fxgrow.analyze(traced, loss_fn, batches)"
        raise DataError("it does not take one batch of images", where=where, fix=fix)
    return images[0][1:]


def _output_classes(graph_module: "fx.GraphModule") -> int | None:
    from fxgrow.graph.network import shape_of

    result = graph_module.graph.output_node().all_input_nodes
    shape = shape_of(result[0]) if len(result) == 1 else None
    return shape[-1] if shape is not None and len(shape) == 2 else None
