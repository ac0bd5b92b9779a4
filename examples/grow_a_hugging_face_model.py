"""Grow the encoder of a model of transformers in its place: the model keeps its class, its config, its ways to save.

Run: python examples/grow_a_hugging_face_model.py    (seconds; small random weights, so that nothing is downloaded)
"""

import torch
from transformers import BertConfig, BertForSequenceClassification

import fxgrow

STEPS, GROW_AT = 30, 10


def main() -> None:
    """Train on a made-up language: a sentence is of class 1 if word 5 is in it."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=2
    )
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(STEPS):
        if step == GROW_AT:
            # the model computes its loss itself from the labels, so there is no loss function to give
            part = fxgrow.grow_inside(
                model, "bert.encoder", None, [sentences() for _ in range(8)], budget=0.1, optimizer=optimizer
            )
            print(f"step {step}: {sum(p.numel() for p in fxgrow.new_parameters(part).values()):,} parameters grew")
        optimizer.zero_grad()
        loss = model(**sentences()).loss
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            print(f"step {step}: loss {loss.item():.3f}")
    print(f"still a {type(model).__name__}, {model.num_parameters():,} parameters")


def sentences() -> dict[str, torch.Tensor]:
    """Return 32 random sentences of 12 words, with their labels."""
    words = torch.randint(6, 50, (32, 12))
    labels = torch.arange(32) % 2
    words[labels == 1, 3] = 5
    return {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": labels}


if __name__ == "__main__":
    main()
