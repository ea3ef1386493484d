"""Who has golden's bits: PyTorch on the CPU, the CUDA kernels, the simulated accelerator.

    python bench/equality.py [--steps 2] [--batch 8] [--models mlp cnn] [--recipes fp8-everywhere]

Each trains the same network on the digits from the same weights and batches. A cell counts the weights and
momenta that differ from those of the golden model's own loop after the last step; losses are held too. The
exit status is 1 where anything differs. The accelerator is simulated in Verilator and needs one arithmetic
for all GEMMs, as fp8-everywhere has. Where there is no GPU, its column says so; the CUDA source compiled by
g++ has one of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import quaver
import quaver.torch
from quaver.golden.engine import Engine
from quaver.golden.kernels.cuda.engine import CudaEngine
from quaver.golden.nn import models
from quaver.golden.nn.recipe import Recipe
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
from quaver.sim.cuda import Processor
from quaver.torch.cuda import Gpu

#: Losses, and the weights and momenta by name, as values (K, N) or flat.
Trained = tuple[list[float], dict[str, Any]]

TORCH: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    ),
    "cnn": lambda: nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(64, 10)),
    ),
}


def trainer_of(model: str, recipe: Recipe, settings: Settings, engine: Engine | None = None) -> Trainer:
    digits = quaver.data.load("digits")
    return Trainer(models.build(model, digits.shape, digits.classes), digits, recipe, settings, engine=engine)


def in_golden(
    model: str, recipe: Recipe, settings: Settings, steps: int, engine: Engine | None = None
) -> Trained:
    """Golden's own loop, on an engine."""
    trainer = trainer_of(model, recipe, settings, engine)
    losses = [trainer.train_step().loss for _ in range(steps)]
    formats = recipe.update.formats if recipe.update else (None, None)
    found = {}
    for kind, codes, fmt in (
        ("weight", trainer.weights, formats[0]),
        ("momentum", trainer.momenta, formats[1]),
    ):
        for name, array in codes.items():
            found[f"{kind} {name}"] = array if fmt is None else fmt.decode(array)
    return losses, found


def in_torch(model: str, recipe: Recipe, settings: Settings, steps: int, device: str) -> Trained:
    """PyTorch's loop on a device."""
    trainer, network = trainer_of(model, recipe, settings), TORCH[model]()
    with torch.no_grad():
        for mine, theirs in zip(network.parameters(), trainer.parameters, strict=True):
            mine.copy_(torch.from_numpy(np.ascontiguousarray(theirs.value.T).reshape(mine.shape)))
    network.to(device)
    quaver.torch.convert(network, recipe)
    quaver.torch.manual_seed(settings.seed)
    groups = [
        {"params": [mine], "weight_decay": settings.weight_decay * theirs.decay}
        for mine, theirs in zip(network.parameters(), trainer.parameters, strict=True)
    ]
    optimiser = quaver.torch.SGD(groups, recipe, lr=settings.learning_rate)
    order, losses = trainer._shuffle(0), []
    for step in range(steps):
        batch = order[step * settings.batch : (step + 1) * settings.batch]
        images = torch.from_numpy(trainer.data.standardised(trainer.data.train_images[batch])).to(device)
        labels = torch.from_numpy(trainer.data.train_labels[batch].astype(np.int64)).to(device)
        optimiser.zero_grad()
        loss = quaver.torch.cross_entropy(network(images), labels, recipe)
        optimiser.scale(loss).backward()
        optimiser.step()
        losses.append(loss.item())
    found = {}
    for mine, theirs in zip(network.parameters(), trainer.parameters, strict=True):
        kept = {"weight": mine, "momentum": optimiser.state[mine][optimiser.momenta[0]]}
        for kind, tensor in kept.items():
            values = tensor.detach().cpu().numpy()
            turned = values if values.ndim < 2 else values.reshape(len(values), -1).T
            found[f"{kind} {theirs.name}"] = turned
    return losses, found


def verdict(found: Trained, expected: Trained) -> tuple[bool, str]:
    """Whether all is equal, and what the table says."""
    numbers = sum(array.size for array in expected[1].values())
    differ = sum(int(np.count_nonzero(found[1][name] != array)) for name, array in expected[1].items()) + sum(
        one != other for one, other in zip(found[0], expected[0], strict=True)
    )
    return not differ, f"{numbers:,} equal" if not differ else f"{differ:,} of {numbers:,} differ"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2, help="training steps of each (2)")
    parser.add_argument("--batch", type=int, default=8, help="images in a step (8)")
    parser.add_argument("--models", nargs="+", default=["mlp"], choices=TORCH, metavar="NAME")
    parser.add_argument(
        "--recipes", nargs="+", default=["fp8-everywhere", "fp8", "fp8-stochastic"], metavar="NAME"
    )
    args = parser.parse_args()
    settings = Settings(batch=args.batch, learning_rate=0.01)
    table = Table(title=f"Weights and momenta after {args.steps} steps, against golden's own loop")
    for column in ("network", "recipe", "PyTorch, CPU", "CUDA by g++", "CUDA", "simulated accelerator"):
        table.add_column(column)
    equal = True
    gpu = torch.cuda.is_available()
    for model in args.models:
        for name in args.recipes:
            recipe = quaver.recipes.recipe(name)
            about = model, recipe, settings, args.steps
            expected, cells = in_golden(*about), []
            arithmetics = {
                getattr(p, role)
                for p in (recipe.first, recipe.hidden, recipe.last)
                if p is not None
                for role in ("forward", "backward", "gradient")
            }
            ways: list[Callable[[], Trained] | str] = [
                lambda about=about: in_torch(*about, "cpu"),
                lambda about=about: in_golden(*about, CudaEngine(Processor())),
                (lambda about=about: in_golden(*about, CudaEngine(Gpu()))) if gpu else "no GPU here",
                (lambda about=about: in_golden(*about, quaver.SimulatedEngine(rows=4, columns=4)))
                if len(arithmetics) == 1
                else "more than one arithmetic",
            ]
            for way in ways:
                same, said = (True, way) if isinstance(way, str) else verdict(way(), expected)
                equal, cells = equal and same, [*cells, said]
            table.add_row(model, name, *cells)
    Console().print(table)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
