"""Growing inside your own model, on other people's: what comes out is theirs again, bit for bit.

    python benchmarks/own_model.py            # small variants of all families
    python benchmarks/own_model.py --full     # in full size: DeiT-S, ResNet-18, ConvNeXt-Tiny, ViT-B and GPT-2
    python benchmarks/own_model.py --full --only gpt2    # one of them: deit, resnet, convnext, hf_vit, gpt2
    python benchmarks/own_model.py --advance  # what one advance of DeiT-S costs, compiled, in training steps

Each model starts with half of its blocks in `fxgrow.Progressive`, is trained for a few steps, advances to the end with
steps in between, and its state dict is loaded into a model that its own class makes anew, ``strict=True``: both must
compute the same, bit for bit, in evaluation mode. Weights are random and data is noise; nothing is downloaded.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fxgrow

STEPS = 2  #: in each stage


@dataclass(frozen=True)
class Family:
    """A family of models: how its class makes one, in full size and small, and what it reads."""

    title: str
    make: Callable[[bool], nn.Module]
    inputs: Callable[[bool], Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a model."""

    idle: list[int]  #: blocks that did not run, in each stage
    kept: int  #: blocks that always run, as none beside them is of their kind
    equal: bool  #: whether the original class computes the same from the state dict


def deit(full: bool) -> nn.Module:
    """Return timm's DeiT-S."""
    import timm

    small = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3}
    return timm.create_model("deit_small_patch16_224", num_classes=100, **({} if full else small))


def resnet(full: bool) -> nn.Module:
    """Return torchvision's ResNet-18, whose blocks are what they are; images of any size do."""
    import torchvision

    return torchvision.models.resnet18(num_classes=100)


def convnext(full: bool) -> nn.Module:
    """Return torchvision's ConvNeXt-Tiny."""
    import torchvision
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    if full:
        return torchvision.models.convnext_tiny(num_classes=100)
    widths = [(8, 16, 3), (16, 24, 2), (24, None, 2)]
    return ConvNeXt([CNBlockConfig(*sizes) for sizes in widths], stochastic_depth_prob=0.1, num_classes=100)


def hf_vit(full: bool) -> nn.Module:
    """Return Hugging Face's ViT."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 96}
    small = {**sizes, "image_size": 32, "patch_size": 8}
    return ViTForImageClassification(ViTConfig(num_labels=100, **({} if full else small)))


def gpt2(full: bool) -> nn.Module:
    """Return Hugging Face's GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    small = {"n_embd": 48, "n_layer": 4, "n_head": 3, "vocab_size": 100, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(use_cache=False, **({} if full else small)))


def images(full: bool) -> Tensor:
    """Return two images."""
    size = 224 if full else 32
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def tokens(full: bool) -> Tensor:
    """Return two texts."""
    return torch.randint(0, 100, (2, 64 if full else 12), generator=torch.Generator().manual_seed(1))


FAMILIES = {
    "deit": Family("timm: DeiT-S", deit, images),
    "resnet": Family("torchvision: ResNet-18", resnet, images),
    "convnext": Family("torchvision: ConvNeXt-Tiny", convnext, images),
    "hf_vit": Family("Hugging Face: ViT", hf_vit, images),
    "gpt2": Family("Hugging Face: GPT-2", gpt2, tokens),
}


def grow_inside(family: Family, *, full: bool) -> Outcome:
    """Train a model from half of its blocks to all of them, and load it into its own class."""
    torch.manual_seed(0)
    model, inputs = family.make(full), family.inputs(full)
    growing = fxgrow.Progressive(model, inputs, depth=1 / 2)
    optimizer = torch.optim.AdamW(growing.parameters(), lr=1e-4)
    idle = [_train(growing, optimizer, inputs)]
    while growing.stage + 1 < len(growing.stages):
        growing.advance()
        idle.append(_train(growing, optimizer, inputs))
    original = family.make(full)
    original.load_state_dict(model.state_dict(), strict=True)
    original.eval()
    growing.eval()
    with torch.no_grad():
        equal = torch.equal(_output(original(inputs)), _output(growing(inputs)))
    return Outcome(idle, len(growing.kept), equal)


def _train(growing: fxgrow.Progressive, optimizer: torch.optim.Optimizer, inputs: Any) -> int:
    """Make some steps, and return how many blocks were idle."""
    growing.train()
    for _ in range(STEPS):
        optimizer.zero_grad()
        _output(growing(inputs)).square().mean().backward()
        optimizer.step()
    return len(growing.idle)


def _output(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def advance_in_steps(batch: int) -> dict[str, float]:
    """Return what one advance of DeiT-S costs, compiled, in training steps of the whole model.

    Counted is the call of `advance`, and the first step after it, in which the compiler meets what is new, less a step.
    """
    torch.manual_seed(0)
    model, inputs = deit(full=True), torch.randn(batch, 3, 224, 224)
    growing = fxgrow.Progressive(model, inputs, depth=1 / 2)
    growing.compile()
    optimizer = torch.optim.AdamW(growing.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        _output(growing(inputs)).square().mean().backward()
        optimizer.step()

    growing.train()
    first = _seconds(step)
    half = min(_seconds(step) for _ in range(3))
    advance = _seconds(growing.advance)
    after = _seconds(step)
    whole = min(_seconds(step) for _ in range(3))
    return {
        "first step, compiled (s)": first,
        "a step of half the blocks (s)": half,
        "a step of all blocks (s)": whole,
        "advance (s)": advance,
        "the first step after it (s)": after,
        "advance in training steps": (advance + after - whole) / whole,
    }


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="in full size")
    parser.add_argument("--only", choices=FAMILIES, help="one family")
    parser.add_argument("--advance", action="store_true", help="what one advance of DeiT-S costs")
    parser.add_argument("--batch", type=int, default=16, help="images of a step, with --advance (%(default)s)")
    options = parser.parse_args()
    if options.advance:
        for name, value in advance_in_steps(options.batch).items():
            print(f"{name:34}{value:10.2f}")
        return 0
    failed = 0
    for family in [FAMILIES[options.only]] if options.only else FAMILIES.values():
        started = time.perf_counter()
        outcome = grow_inside(family, full=options.full)
        verdict = "bit-equal" if outcome.equal else "NOT EQUAL"
        blocks, seconds = " -> ".join(map(str, outcome.idle)), f"{time.perf_counter() - started:.0f} s"
        print(f"{family.title:28} idle blocks {blocks}, {outcome.kept} always run; {verdict}; {seconds}", flush=True)
        failed += not outcome.equal
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
