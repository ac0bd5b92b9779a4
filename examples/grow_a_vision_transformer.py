"""Grow a timm vision transformer while it trains on scikit-learn's digits: your own loop, start to finish.

Run: python examples/grow_a_vision_transformer.py    (about a minute on two cores, eager)
"""

import timm
import torch
import torch.nn.functional as F

import fxgrow
from fxgrow.data import open_source

EPOCHS, GROW_AT = 12, {3, 6}


def main() -> None:
    """Train, grow twice, save, and compare with what was saved."""
    torch.manual_seed(0)
    train, test = (open_source("digits", train=part, image_size=16, channels=1) for part in (True, False))
    loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)

    arguments = {"img_size": 16, "patch_size": 4, "in_chans": 1, "num_classes": 10}
    arguments |= {"embed_dim": 64, "depth": 3, "num_heads": 2, "mlp_ratio": 2}
    model = timm.create_model("vit_tiny_patch16_224", **arguments)
    origin = fxgrow.Origin("timm", "vit_tiny_patch16_224", arguments)  # lets fxgrow.load rebuild the base

    example, _ = next(iter(loader))
    network = fxgrow.trace(model, example, origin=origin)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)

    for epoch in range(EPOCHS):
        if epoch in GROW_AT:
            network = grow(network, optimizer, loader, epoch)
        network.train()
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
        schedule.step()
        print(f"epoch {epoch}: {accuracy(network, test):.1%} of {len(test)} test digits")

    fxgrow.save(network, "digits.pt", overwrite=True)
    again = fxgrow.load("digits.pt")
    print(f"loaded again: {accuracy(again, test):.1%}; now type: fxgrow inspect digits.pt")


def grow(network, optimizer, loader, epoch):
    """Score the network on four batches, and add at most 8 % of its parameters."""
    network.eval()
    probe = [batch for batch, _ in zip(loader, range(4), strict=False)]
    scores = fxgrow.analyze(network, F.cross_entropy, probe)
    # The new parameters enter the optimizer's groups; the moments of the old ones stay as they are.
    grown = fxgrow.grow(network, scores, budget=0.08, optimizer=optimizer, context={"epoch": epoch})
    fxgrow.verify(network, grown)
    print(f"grown by {sum(p.numel() for p in fxgrow.new_parameters(grown).values())} parameters, same function")
    return grown


@torch.no_grad()
def accuracy(network, dataset) -> float:
    """Return the share of images that the network gets right."""
    network.eval()
    images, labels = next(iter(torch.utils.data.DataLoader(dataset, batch_size=len(dataset))))
    return (network(images).argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    main()
