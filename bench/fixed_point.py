"""Nearest against stochastic rounding in 16-bit fixed point, after Gupta et al. 2015, figures 1 to 3.

Trains the paper's 784-1000-1000-10 network (or our CNN) with every number of fraction bits in both roundings,
and in float32: plain SGD, batch 100. With --later-at, all but float32 end in 20 bits. With --out, every epoch
is kept as it ends: the same command after a kill goes on from there, and with more epochs from the last one.

    python bench/fixed_point.py --data mnist --data-dir DIR --epochs 3 --out runs/fixed-point
    python bench/fixed_point.py --data mnist --data-dir DIR --model cnn --images 5000 --test-images 2000
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from quaver.golden import data
from quaver.golden.files import write
from quaver.golden.nn import checkpoint, models
from quaver.golden.nn.recipe import Recipe
from quaver.golden.nn.recipes import fixed, fixed20, fp32
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Epoch, Trainer
from quaver.golden.rounding import Rounding


def recipes(fraction_bits: list[int]) -> list[Recipe]:
    """float32, then each number of fraction bits in both roundings."""
    return [fp32] + [
        fixed(f"FL {bits}, {rounding}", 16, bits, rounding=rounding, later=fixed20)
        for bits in fraction_bits
        for rounding in (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC)
    ]


def network(model: str, dataset: data.Dataset, seed: int) -> models.Network:
    """The paper's fully connected network for "mlp", else a model by name."""
    if model == "mlp":
        rng = np.random.default_rng([seed, 0])
        return models.mlp(dataset.shape, dataset.classes, rng, widths=(1000, 1000))
    return models.build(model, dataset.shape, dataset.classes, seed=seed)


def train(trainer: Trainer, folder: Path | None, console: Console) -> dict[str, Any]:
    """One row: loss, test error and seconds of every epoch, stored in `folder` as each ends and gone on with
    from there."""
    name = trainer.recipe.name
    row: dict[str, Any] = {"recipe": name, "epochs": []}
    stem = name.replace(",", "").replace(" ", "-")
    if folder and (folder / f"{stem}.npz").exists():
        checkpoint.resume(trainer, folder / f"{stem}.npz")
        # The row is written before the checkpoint, so it may be an epoch ahead.
        row["epochs"] = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))["epochs"][
            : trainer.reported
        ]
    started = time.monotonic()
    for event in trainer.steps():
        if not isinstance(event, Epoch):
            continue
        seconds, started = time.monotonic() - started, time.monotonic()
        error = 1 - event.test_accuracy
        row["epochs"].append({"loss": event.loss, "test_error": error, "seconds": round(seconds, 1)})
        console.print(f"{name:18} epoch {event.epoch + 1}  test error {error:.2%}  {seconds:.0f} s")
        if folder:
            write(folder / f"{stem}.json", json.dumps(row, indent=1) + "\n")
            checkpoint.save(trainer, folder / f"{stem}.npz")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", choices=data.NAMES)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--model", default="mlp", choices=models.MODELS)
    parser.add_argument("--images", type=int, help="train on the first N images only")
    parser.add_argument("--test-images", type=int, help="test on the first N images only")
    parser.add_argument("--fraction-bits", type=int, nargs="+", default=[8, 10, 14])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--later-at", type=int, help="20 bits from this epoch on")
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--momentum", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder that keeps each row's epochs, to go on from")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    dataset = data.load(args.data, args.data_dir)
    dataset = replace(
        dataset,
        train_images=dataset.train_images[: args.images],
        train_labels=dataset.train_labels[: args.images],
        test_images=dataset.test_images[: args.test_images],
        test_labels=dataset.test_labels[: args.test_images],
    )
    console = Console(stderr=True)
    results = []
    for recipe in recipes(args.fraction_bits):
        settings = Settings(
            epochs=args.epochs,
            batch=100,
            learning_rate=args.learning_rate,
            momentum=args.momentum,
            weight_decay=0.0,
            later_at=args.later_at if recipe.later else None,
            seed=args.seed,
        )
        trainer = Trainer(network(args.model, dataset, args.seed), dataset, recipe, settings)
        results.append(train(trainer, args.out, console))
    if args.json:
        print(json.dumps(results, indent=1))
        return
    table = Table(
        title=f"{args.model} on {args.data}, {len(dataset.train_labels)} images, test error in % by epoch"
    )
    for column in (
        "",
        *(str(e + 1) for e in range(args.epochs)),
        "loss",
        "÷ fp32",
        "s/epoch",
    ):
        table.add_column(column, justify="right")
    reference = results[0]["epochs"][args.epochs - 1]["test_error"]
    for r in results:
        epochs = r["epochs"][: args.epochs]
        errors = [e["test_error"] for e in epochs]
        seconds = sum(e["seconds"] for e in epochs) / args.epochs
        ratio = f"{errors[-1] / reference:.2f}" if reference else "–"
        last = f"{epochs[-1]['loss']:.4f}"
        table.add_row(r["recipe"], *(f"{100 * e:.2f}" for e in errors), last, ratio, f"{seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
