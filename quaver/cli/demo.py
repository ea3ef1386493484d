"""The whole story on real digits: train in FP32 and FP8, run it on simulated hardware, compare every code.

Trains a network of two hidden layers on scikit-learn's digits in FP32, in FP8 and in FP8 without chunks.
Takes the network trained in FP8, classifies test images and goes on training on the golden model and on the
generated Verilog of an 8×8 systolic array side by side, and prints how many codes were compared and how many
differed. Draws the accuracy curves beside the reason for chunks: a sum in FP16 that stalls.

examples:
  quaver demo                        two to four minutes, most of it compiling the simulation the first time
  quaver demo --picture demo.png     where the picture goes
  quaver demo --rows 4 --columns 4 --epochs 3 --json
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from quaver.cli import figures
from quaver.cli.compare import as_data, comparison_table
from quaver.cli.files import check_output, write_figure
from quaver.cli.options import (
    add_array_arguments,
    console,
    make_engine,
    print_results,
    progress_bar,
)
from quaver.cli.versions import versions
from quaver.golden.data import load
from quaver.golden.engine import Engine, GoldenEngine
from quaver.golden.nn import recipes
from quaver.golden.nn.compare import Comparison, compare
from quaver.golden.nn.models import build
from quaver.golden.nn.recipe import Recipe
from quaver.golden.nn.run import Trace
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Epoch, Trainer
from quaver.golden.planning.swamping import STALL_LENGTHS, STALL_WAYS, Measured, stall

#: The digits' test images.
IMAGES = 360

RECIPES = (recipes.fp32, recipes.fp8, recipes.fp8_no_chunks)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="epochs of each training (8)")
    parser.add_argument("--images", type=int, default=360, metavar="N", help="images for both on both (360)")
    parser.add_argument("--steps", type=int, default=2, metavar="N", help="steps on both engines (2)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="all random bits follow from it (1)")
    picture = Path("quaver-demo.png")
    parser.add_argument("--picture", type=Path, default=picture, metavar="FILE", help=f"({picture})")
    parser.add_argument("--json", action="store_true", help="results as one JSON object on standard output")
    add_array_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.picture.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--picture is {args.picture}, but it must end in .png, .svg or .pdf")
    check_output(args.picture, "--picture")
    if args.steps < 1 or not 0 <= args.images <= IMAGES:
        raise ValueError(
            f"--steps is {args.steps} and --images is {args.images}; take 1 step or more, and 0 to {IMAGES} "
            f"images"
        )
    simulated = make_engine("sim", args)
    curves, trained = _train_all(args)
    result = _compare_trained(trained, simulated, args)
    with progress_bar("summing", len(STALL_WAYS), "ways") as advance:
        sums = stall(args.seed, advance)
    _draw(curves, sums, args.picture)
    console.print(f"picture: {args.picture}")
    if not args.json:
        print_results(_accuracies(curves), None, as_json=False)
    table = comparison_table(result, f"golden model against simulated {args.rows}×{args.columns} array, FP8")
    data = {
        "epochs": {name: [asdict(e) for e in epochs] for name, epochs in curves.items()},
        "comparison": as_data(result),
        "sums": {"lengths": STALL_LENGTHS, **{name: list(ratios) for name, ratios in sums.items()}},
        "picture": str(args.picture),
        "seed": args.seed,
        "versions": versions("verilator"),
    }
    print_results(table, data, as_json=args.json)
    if not result.equal:
        console.print(f"[bold red]first mismatch:[/] {result.first}")
    return 0 if result.equal else 1


def _trainer(recipe: Recipe, args: argparse.Namespace, engine: Engine, trace: Trace | None = None) -> Trainer:
    data = load("digits")
    settings = Settings(epochs=args.epochs, seed=args.seed)
    network = build("mlp", data.shape, data.classes, seed=args.seed)
    return Trainer(network, data, recipe, settings, engine=engine, trace=trace)


def _train_all(args: argparse.Namespace) -> tuple[dict[str, list[Epoch]], Trainer]:
    """Train with each recipe on the golden model: the epochs by recipe, and the trainer that ran FP8."""
    curves: dict[str, list[Epoch]] = {}
    trainers = {recipe.name: _trainer(recipe, args, GoldenEngine()) for recipe in RECIPES}
    steps = sum(trainer.settings.epochs * trainer.steps_per_epoch for trainer in trainers.values())
    with progress_bar("training", steps, "steps") as advance:
        for name, trainer in trainers.items():
            curves[name] = []
            for event in trainer.steps():
                if isinstance(event, Epoch):
                    curves[name].append(event)
                else:
                    advance(text=f"training {name}")
    return curves, trainers[recipes.fp8.name]


def _compare_trained(trained: Trainer, simulated: Engine, args: argparse.Namespace) -> Comparison:
    """Go on from the trained state on both engines."""
    state = trained.state()

    def make(engine: Engine, trace: Trace) -> Trainer:
        trainer = _trainer(trained.recipe, args, engine, trace)
        trainer.restore(state)
        return trainer

    with progress_bar("comparing with the simulated accelerator", args.steps, "steps") as advance:
        return compare(
            make,
            GoldenEngine(),
            simulated,
            steps=args.steps,
            images=args.images,
            progress=lambda step: advance(),
        )


def _accuracies(curves: dict[str, list[Epoch]]) -> Table:
    table = Table(title="digits, two hidden layers: accuracy on the 360 test images")
    table.add_column("recipe")
    for epoch in next(iter(curves.values())):
        table.add_column(f"epoch {epoch.epoch + 1}", justify="right")
    for name, epochs in curves.items():
        table.add_row(name, *(f"{e.test_accuracy:.1%}" for e in epochs))
    return table


def _draw(curves: dict[str, list[Epoch]], sums: Measured, path: Path) -> None:
    figure, (left, right) = figures.panels(1, 2, (11, 4.2))
    for (name, epochs), colour in zip(curves.items(), ("#222222", *figures.COLOURS), strict=False):
        accuracies = [100 * e.test_accuracy for e in epochs]
        left.plot([e.epoch + 1 for e in epochs], accuracies, marker="o", color=colour, label=name)
    left.set(xlabel="epoch", ylabel="test accuracy, %", title="Digits, 64–128–64–10")
    left.legend(loc="lower right", frameon=False)
    figures.stalls(right, sums)
    write_figure(path, figure)
