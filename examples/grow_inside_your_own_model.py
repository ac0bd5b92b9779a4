"""Train a model of timm, torchvision or transformers of which a part runs at first, and get the model itself back.

Run: python examples/grow_inside_your_own_model.py [deit-s | resnet18 | convnext-tiny | vit | gpt2]    (DeiT-S: minutes)

Random data and a few steps: this shows that everything goes on through the stages, and what each of them costs.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import fxgrow

STEPS, STAGES = 6, {2: "half of the rest wakes", 4: "all of it runs"}


def deit_s() -> nn.Module:
    """Return timm's DeiT-S."""
    import timm

    return timm.create_model("deit_small_patch16_224", num_classes=100)


def resnet18() -> nn.Module:
    """Return torchvision's ResNet-18: the second block of its first stage can wait, others have none of their kind."""
    import torchvision

    return torchvision.models.resnet18(num_classes=100)


def convnext_tiny() -> nn.Module:
    """Return torchvision's ConvNeXt-Tiny."""
    import torchvision

    return torchvision.models.convnext_tiny(num_classes=100)


def vit() -> nn.Module:
    """Return a ViT-S of transformers."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=100)
    return ViTForImageClassification(config)


def gpt2() -> nn.Module:
    """Return GPT-2 as transformers has it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(use_cache=False))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "deit-s": deit_s,
    "resnet18": resnet18,
    "convnext-tiny": convnext_tiny,
    "vit": vit,
    "gpt2": gpt2,
}


def main(name: str = "deit-s") -> None:
    """Train through the stages, and compare the end with the original class."""
    torch.manual_seed(0)
    make = MODELS[name]
    model, inputs = make(), example_inputs(name)
    growing = fxgrow.Progressive(model, inputs, depth=1 / 4)
    optimizer = torch.optim.AdamW(growing.parameters(), lr=1e-4)
    print(f"idle at first: {', '.join(growing.idle)}")
    for step in range(STEPS):
        if step in STAGES and growing.stage + 1 < len(growing.stages):
            growing.advance()
            print(f"step {step}: {STAGES[step]}")
        optimizer.zero_grad()
        loss = loss_of(growing(**inputs) if isinstance(inputs, dict) else growing(inputs), inputs)
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.3f}")
    print(growing.costs())

    fresh = make()
    fresh.load_state_dict(model.state_dict(), strict=True)
    growing.eval(), fresh.eval()
    with torch.no_grad():
        ours, theirs = (logits(m(**inputs) if isinstance(inputs, dict) else m(inputs)) for m in (growing, fresh))
    print(f"the original class loads it, outputs {'bit-equal' if torch.equal(ours, theirs) else 'NOT equal'}")


def example_inputs(name: str) -> Any:
    """Return a batch of random images, or of random tokens."""
    if name == "gpt2":
        return {"input_ids": torch.randint(0, 50257, (2, 32))}
    images = torch.randn(2, 3, 224, 224)
    return {"pixel_values": images} if name == "vit" else images


def logits(output: Any) -> torch.Tensor:
    """Return the logits of whatever a model returns."""
    return output["logits"] if hasattr(output, "keys") else output


def loss_of(output: Any, inputs: Any) -> torch.Tensor:
    """Return the cross-entropy with some targets: random classes, or the next token."""
    scores = logits(output)
    if scores.dim() == 3:
        return F.cross_entropy(scores[:, :-1].flatten(0, 1), inputs["input_ids"][:, 1:].flatten())
    return F.cross_entropy(scores, torch.arange(len(scores)))


if __name__ == "__main__":
    main(*sys.argv[1:])
