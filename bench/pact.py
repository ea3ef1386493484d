"""PACT against DoReFa, and both against float32, at 2, 3, 4 and 5 bits (weights as wide as activations).

After Choi et al. 2018 (arXiv 1805.06085), on small data. The first and the last layer are in float32, as in
the paper. With --out, every finished run is kept and not trained again, and the figure of α's path is written
beside them.

    python bench/pact.py --data fashion-mnist --data-dir DIR --model cnn --epochs 10 --seeds 3 --out DIR
    python bench/pact.py --data fashion-mnist --data-dir DIR --model cnn --images 6000 --test-images 2000
    python bench/pact.py --alpha 3      # α begins where a long training would have brought it
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from quaver.cli import figures
from quaver.golden import data
from quaver.golden.files import write
from quaver.golden.nn import models, recipes
from quaver.golden.nn.quantisers import Clip
from quaver.golden.nn.recipe import Recipe
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Epoch, Step, Trainer

FAMILIES = {
    "PACT": recipes.pact,
    "PACT, SAWB": recipes.pact_sawb,
    "DoReFa": recipes.dorefa,
    "ReLU6": recipes.relu6,
}
#: Top-1 of CIFAR10-ResNet20 in the paper: float32, and 2 to 5 bits.
PAPER = {"FP32": 91.6, "PACT": (89.7, 91.1, 91.3, 91.7), "DoReFa": (88.2, 89.9, 90.5, 90.4)}


def beginning_at(recipe: Recipe, alpha: float | None) -> Recipe:
    """The recipe with another α to begin with, if it learns one."""
    clip = recipe.hidden.inputs
    if alpha is None or not isinstance(clip, Clip) or not clip.learned:
        return recipe
    hidden = replace(recipe.hidden, inputs=replace(clip, alpha=alpha))
    return replace(recipe, name=f"{recipe.name}-from-{alpha:g}", hidden=hidden)


def train(trainer: Trainer, dataset: data.Dataset, console: Console) -> dict[str, Any]:
    """The run's epochs, α after each step, and how many of the dataset's test images are right at the end."""
    run: dict[str, Any] = {
        "loss": [],
        "accuracy": [],
        "alphas": {},
        "steps_per_epoch": trainer.steps_per_epoch,
    }
    name, seed, started = trainer.recipe.name, trainer.settings.seed, time.monotonic()
    for event in trainer.steps():
        if isinstance(event, Step):
            for layer, alpha in event.alphas.items():
                run["alphas"].setdefault(layer, []).append(alpha)
        elif isinstance(event, Epoch):
            run["loss"].append(event.loss)
            run["accuracy"].append(event.test_accuracy)
            seconds = time.monotonic() - started
            console.print(
                f"{name:12} seed {seed}  epoch {event.epoch + 1}  test {event.test_accuracy:.2%}  "
                f"{seconds:.0f} s"
            )
    run["final"] = trainer.evaluate(dataset.test_images, dataset.test_labels)[1]
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="digits", choices=data.NAMES)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--model", default="mlp", choices=models.MODELS)
    parser.add_argument("--images", type=int, help="train on the first N images only")
    parser.add_argument(
        "--test-images", type=int, help="test on the first N images after each epoch; at the end on all"
    )
    parser.add_argument("--bits", type=int, nargs="+", choices=list(recipes.pact), default=list(recipes.pact))
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--weight-decay", type=float, default=2e-4)
    parser.add_argument(
        "--decay-at", type=int, nargs="*", default=[], help="learning rate ÷ 10 before these epochs"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds 1 … N (1)")
    parser.add_argument("--alpha", type=float, help="where α begins, in place of the paper's 10")
    parser.add_argument("--out", type=Path, help="folder that keeps the runs and the figure of α")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}, but there is at least one")
    try:
        families = {
            family: {k: beginning_at(FAMILIES[family][k], args.alpha) for k in args.bits}
            for family in args.families
        }
        of_seeds = [
            Settings(
                epochs=args.epochs,
                batch=args.batch,
                learning_rate=args.learning_rate,
                weight_decay=args.weight_decay,
                decay_at=tuple(args.decay_at),
                seed=seed,
            )
            for seed in range(1, args.seeds + 1)
        ]
    except ValueError as error:
        parser.error(str(error))
    dataset = data.load(args.data, args.data_dir)
    trained_on = replace(
        dataset,
        train_images=dataset.train_images[: args.images],
        train_labels=dataset.train_labels[: args.images],
        test_images=dataset.test_images[: args.test_images],
        test_labels=dataset.test_labels[: args.test_images],
    )
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    runs: dict[str, list[dict[str, Any]]] = {}
    chosen = [recipes.fp32] + [families[family][k] for k in args.bits for family in families]
    for settings in of_seeds:
        for recipe in chosen:
            kept = args.out and args.out / f"{recipe.name}-{settings.seed}.json"
            about = {"settings": str(settings), "data": trained_on.sha256, "model": args.model}
            if kept and kept.exists() and json.loads(kept.read_text(encoding="utf-8"))["about"] == about:
                run = json.loads(kept.read_text(encoding="utf-8"))
            else:
                network = models.build(args.model, dataset.shape, dataset.classes, seed=settings.seed)
                trainer = Trainer(network, trained_on, recipe, settings)
                run = train(trainer, dataset, console) | {"about": about}
                if kept:
                    write(kept, json.dumps(run) + "\n")
            runs.setdefault(recipe.name, []).append(run)
    if args.out:
        figure(runs).savefig(args.out / "alpha.png", dpi=120)
    if args.json:
        print(json.dumps(runs, indent=1))
        return
    Console().print(table(runs, families, args))


def accuracies(found: list[dict[str, Any]]) -> list[float]:
    """After the last epoch on all test images, in percent, a seed each."""
    return [100 * run["final"] for run in found]


def table(
    runs: dict[str, list[dict[str, Any]]], families: dict[str, dict[int, Recipe]], args: argparse.Namespace
) -> Table:
    """A row for each family, a column for each number of bits; below, the paper's own network."""
    images = f"{args.images:,} images" if args.images else "all images"
    shown = Table(
        title=f"{args.model} on {args.data}, {images}, {args.epochs} epochs, {args.seeds} seeds: "
        f"test accuracy, %"
    )
    shown.add_column("")
    for heading in ("FP32", *(f"{k} bits" for k in args.bits)):
        shown.add_column(heading, justify="right")

    def cell(name: str) -> str:
        values = accuracies(runs[name])
        return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")

    for family, of_bits in families.items():
        shown.add_row(family, cell("fp32"), *(cell(of_bits[k].name) for k in args.bits))
    shown.add_section()
    for family in ("PACT", "DoReFa"):
        cells = [f"{dict(zip(recipes.pact, PAPER[family], strict=True))[k]:.1f}" for k in args.bits]  # type: ignore[arg-type]
        shown.add_row(f"paper, CIFAR10-ResNet20: {family}", f"{PAPER['FP32']}", *cells)
    return shown


@dataclass
class Run:
    """As `quaver.cli.figures.alphas` draws one."""

    alphas: dict[str, list[float]]
    steps_per_epoch: int


def figure(runs: dict[str, list[dict[str, Any]]]) -> Any:
    """α of each layer against epochs, a panel for each recipe that learns one."""
    learn = {name: found for name, found in runs.items() if found[0]["alphas"]}
    drawn, axes = figures.panels(1, max(len(learn), 1), (max(3.6 * len(learn), 5), 3.6))
    for one, (name, found) in zip(np.ravel(axes), learn.items(), strict=False):
        figures.alphas(one, name, [Run(run["alphas"], run["steps_per_epoch"]) for run in found])
    return drawn


if __name__ == "__main__":
    main()
