"""The promises of growth on models of full size: DeiT-S, ResNet-50 and an MLP.

Run: python benchmarks/acceptance.py [--models mlp resnet50 deit_s] [--budget 0.10]    (about ten minutes on two cores)

For each model: parameters before and after, the share of the budget that was spent, the largest differences of outputs
and old gradients in float32 and float64 in both modes, how many new parameters moved by the second optimizer step, and
whether ``torch.compile(grown, fullgraph=True)`` trains.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.annotations import annotation

CLASSES = 100


def deit_s() -> tuple[nn.Module, torch.Size]:
    """DeiT-S with 100 classes: 21,704,164 parameters."""
    return timm.create_model("deit_small_patch16_224", num_classes=CLASSES, drop_path_rate=0.1), torch.Size(
        (3, 224, 224)
    )


def resnet50() -> tuple[nn.Module, torch.Size]:
    """ResNet-50 with 100 classes."""
    return timm.create_model("resnet50", num_classes=CLASSES), torch.Size((3, 224, 224))


def mlp() -> tuple[nn.Module, torch.Size]:
    """Three hidden layers with dropout."""
    widths = (256, 512, 512, 512)
    hidden = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.GELU(), nn.Dropout())]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], CLASSES)), torch.Size((256,))


MODELS: dict[str, Callable[[], tuple[nn.Module, torch.Size]]] = {"mlp": mlp, "resnet50": resnet50, "deit_s": deit_s}


def examine(name: str, budget: float) -> None:
    """Grow one model and print what came of each promise."""
    torch.manual_seed(0)
    model, shape = MODELS[name]()
    batches = [(torch.randn(8, *shape), torch.randint(CLASSES, (8,))) for _ in range(2)]
    traced, seconds = timed(lambda: fxgrow.trace(model, batches[0][0][:2]))
    print(f"\n{name}: {parameter_count(traced):,} parameters, traced in {seconds:.1f} s")
    optimizer = torch.optim.AdamW(
        traced.parameters(), lr=1e-4, weight_decay=0
    )  # decay would move what no gradient moves
    train_two_steps(traced, optimizer, batches)
    scores, seconds = timed(lambda: fxgrow.analyze(traced, F.cross_entropy, batches))
    print(f"  analyzed in {seconds:.1f} s: {len(scores)} sites scored")
    grown, seconds = timed(lambda: fxgrow.grow(traced, scores, budget=budget, optimizer=optimizer))
    added = parameter_count(grown) - parameter_count(traced)
    limit = int(budget * parameter_count(traced))
    print(f"  grown in {seconds:.2f} s: {added:,} of {limit:,} parameters ({added / limit:.2%} of the budget)")
    check_meta(grown)
    for dtype in (torch.float32, torch.float64):
        inputs = batches[0][0][:2].to(dtype)
        report = fxgrow.verify(traced.to(dtype), grown.to(dtype), inputs)
        print(
            f"  {dtype}: largest relative difference {report.largest_relative:.1e} over {report.outputs} outputs and "
            f"{report.gradients} gradients, modes {', '.join(report.modes)}, batches {report.batch_sizes}"
        )
    grown.float().train()
    print(f"  {moved_by_the_second_step(grown, optimizer, batches)}")


def check_meta(grown: fx.GraphModule) -> None:
    """Print how many nodes carry shapes and scores."""
    shapes = sum("tensor_meta" in node.meta for node in grown.graph.nodes)
    scored = sum("scores" in annotation(node) for node in grown.graph.nodes)
    print(f"  {len(grown.graph.nodes)} nodes, {shapes} with shapes, {scored} with scores")


def moved_by_the_second_step(
    grown: fx.GraphModule, optimizer: torch.optim.Optimizer, batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> str:
    """Train two steps under ``torch.compile(grown, fullgraph=True)`` and say what moved."""
    new = fxgrow.new_parameters(grown)
    before = {name: parameter.detach().clone() for name, parameter in new.items()}
    started = time.perf_counter()
    losses = train_two_steps(torch.compile(grown, fullgraph=True), optimizer, batches)
    moved = sum(not torch.equal(parameter, before[name]) for name, parameter in new.items())
    return (
        f"compiled with fullgraph=True and trained two steps in {time.perf_counter() - started:.0f} s: "
        f"{moved} of {len(new)} new tensors moved, losses {', '.join(f'{loss:.3f}' for loss in losses)}"
    )


def train_two_steps(
    model: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    batches: list[tuple[torch.Tensor, torch.Tensor]],
) -> list[float]:
    """Take one optimizer step for each of two batches, and return the losses.

    Before growth this gives residual branches that start at zero (timm's ResNets zero the last norm's weight) a
    gradient: until then nothing inside them can move, new or old.
    """
    losses = []
    for images, labels in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `action` returns, and the seconds that it took."""
    started = time.perf_counter()
    return action(), time.perf_counter() - started


def main() -> None:
    """Examine the models that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--budget", type=float, default=0.10)
    arguments = parser.parse_args()
    for name in arguments.models:
        examine(name, arguments.budget)


if __name__ == "__main__":
    main()
