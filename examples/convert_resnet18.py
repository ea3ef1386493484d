"""Train PyTorch's ResNet-18 in eight bits: the ten lines of `main` from `convert` on are all there is to it.

    python examples/convert_resnet18.py [--steps 50] [--batch 16] [--recipe fp8]

The images are scikit-learn's handwritten digits, enlarged to 32×32: there is nothing to download.
"""

from __future__ import annotations

import argparse

import torch
from resnet import resnet18
from torch.nn import functional

import quaver
import quaver.torch


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (1437, 3, 32, 32) of mean 0 and variance 1, and labels."""
    data = quaver.data.load("digits")
    images = torch.from_numpy(data.standardised(data.train_images))
    return functional.interpolate(images, 32).expand(-1, 3, -1, -1), torch.from_numpy(
        data.train_labels
    ).long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--recipe", default="fp8", help="one of quaver.recipes (default: fp8)")
    parser.add_argument(
        "--width", type=int, default=64, help="maps of the first stage (default: ResNet-18's)"
    )
    options = parser.parse_args()
    torch.manual_seed(1)
    images, labels = digits()

    recipe = quaver.recipes.recipe(options.recipe)
    model = resnet18(num_classes=10, width=options.width)
    print(quaver.torch.convert(model, recipe))
    optimiser = quaver.torch.SGD(model.parameters(), recipe, lr=0.02, weight_decay=1e-4)
    for step in range(options.steps):
        batch = torch.randint(len(labels), (options.batch,))
        logits = model(images[batch])
        loss = functional.cross_entropy(logits, labels[batch])
        optimiser.zero_grad()
        optimiser.scale(loss).backward()
        optimiser.step()
        right = (logits.argmax(1) == labels[batch]).float().mean()
        print(f"step {step}: loss {loss:.4f}, right {right:.0%}", flush=True)


if __name__ == "__main__":
    main()
