"""A character transformer on tiny Shakespeare, in FP8 and in float32 from the same weights and batches.

    python examples/shakespeare.py DIRECTORY [--steps 300]

DIRECTORY holds tinyshakespeare.txt (or input.txt), the million characters of
https://github.com/karpathy/char-rnn/tree/master/data/tinyshakespeare.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import quaver
import quaver.torch


class Block(nn.Module):
    """Attention and a multilayer perceptron, each normalised first and added to what came."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        heads = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class CharacterTransformer(nn.Module):
    """(batch, tokens) → logits (batch, tokens, characters)."""

    def __init__(self, characters: int, context: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(characters, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                of_residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * layers) if of_residual else 1))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.characters(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def read(directory: Path) -> str:
    for name in ("tinyshakespeare.txt", "input.txt"):
        if (directory / name).is_file():
            return (directory / name).read_text(encoding="utf-8")
    raise SystemExit(f"{directory} holds neither tinyshakespeare.txt nor input.txt; download it there")


def batch_of(text: Tensor, context: int, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(text) - context, (batch,), generator=generator).tolist()
    return torch.stack([text[i : i + context] for i in starts]), torch.stack(
        [text[i + 1 : i + 1 + context] for i in starts]
    )


def train(recipe: quaver.Recipe, text: Tensor, characters: int, options: argparse.Namespace) -> float:
    """The mean loss on text that was held back, after the last step."""
    held_back = len(text) * 9 // 10
    torch.manual_seed(1)
    quaver.torch.manual_seed(1)
    model = CharacterTransformer(characters, options.context, options.width, options.heads, options.layers)
    quaver.torch.convert(model, recipe)
    optimiser = quaver.torch.Adam(model.parameters(), recipe, lr=options.learning_rate, betas=(0.9, 0.99))

    def loss_of(part: Tensor, generator: torch.Generator) -> Tensor:
        tokens, following = batch_of(part, options.context, options.batch, generator)
        return functional.cross_entropy(model(tokens).flatten(0, 1), following.flatten())

    batches = torch.Generator().manual_seed(1)
    begun = time.perf_counter()
    for step in range(options.steps):
        warm = min(1.0, (step + 1) / max(1, options.steps // 20))
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * warm
        loss = loss_of(text[:held_back], batches)
        optimiser.zero_grad()
        optimiser.scale(loss).backward()
        optimiser.step()
        if step % max(1, options.steps // 10) == 0 or step == options.steps - 1:
            seconds = (time.perf_counter() - begun) / (step + 1)
            print(f"{recipe.name:6} step {step:5}: loss {loss:.4f}, {seconds:.2f} s a step", flush=True)
    model.eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        return sum(loss_of(text[held_back:], generator).item() for _ in range(8)) / 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    for name, default in (("steps", 300), ("batch", 16), ("context", 64), ("width", 64), ("heads", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--recipes", default="fp32,fp8", help="of quaver.recipes (default: fp32,fp8)")
    options = parser.parse_args()
    whole = read(options.directory)
    alphabet = sorted(set(whole))
    number = {character: i for i, character in enumerate(alphabet)}
    text = torch.tensor([number[character] for character in whole])
    losses = {
        name: train(quaver.recipes.recipe(name), text, len(alphabet), options)
        for name in options.recipes.split(",")
    }
    for name, loss in losses.items():
        print(f"{name}: {loss:.4f} nats a character on text held back")


if __name__ == "__main__":
    main()
