"""The whole story on real digits: train in FP32 and FP8, run it on simulated hardware, compare every code.

Trains a network of two hidden layers on scikit-learn's digits in FP32, in FP8 and in FP8 without chunks.
Takes the network trained in FP8, classifies test images and goes on training on the golden model and on the
generated Verilog of an 8×8 systolic array side by side, and prints how many codes were compared and how many
differed. Draws the accuracy curves beside the reason for chunks: a sum in FP16 that stalls.

examples:
  quaver demo                        a minute or two, most of it compiling the simulation the first time
  quaver demo --picture demo.png     where the picture goes
  quaver demo --rows 4 --columns 4 --epochs 3 --json
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from golden.arithmetic.chunked_float import ChunkedFloat
from golden.data import load
from golden.engine import Engine, GoldenEngine
from golden.formats import FP16
from golden.nn import recipes
from golden.nn.compare import Comparison, compare
from golden.nn.models import build
from golden.nn.recipe import Recipe
from golden.nn.run import Trace
from golden.nn.train import Epoch, Settings, Trainer
from quaver.compare import as_data, comparison_table
from quaver.options import add_array_arguments, console, make_engine, print_results, progress_bar

RECIPES = (recipes.fp32, recipes.fp8, recipes.fp8_no_chunks)
LENGTHS = tuple(1 << i for i in range(6, 17))
SUMS = {
    "nearest, no chunks": ChunkedFloat(operand=FP16, chunk=recipes.NO_CHUNKS),
    "stochastic, no chunks": ChunkedFloat(operand=FP16, chunk=recipes.NO_CHUNKS, rounding="stochastic"),
    "nearest, chunks of 64": ChunkedFloat(operand=FP16, chunk=64),
}
Ratios = dict[str, NDArray[np.float64]]


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
    if not args.picture.absolute().parent.is_dir():
        raise ValueError(f"--picture is {args.picture}, but there is no directory {args.picture.parent}")
    simulated = make_engine("sim", args)
    curves, trained = _train_all(args)
    result = _compare_trained(trained, simulated, args)
    with progress_bar("summing", len(SUMS), "ways") as advance:
        sums = stall(args.seed, advance)
    _draw(curves, sums, args.picture)
    console.print(f"picture: {args.picture}")
    if not args.json:
        print_results(_accuracies(curves), None, as_json=False)
    table = comparison_table(result, f"golden model against simulated {args.rows}×{args.columns} array, FP8")
    data = {
        "epochs": {name: [asdict(e) for e in epochs] for name, epochs in curves.items()},
        "comparison": as_data(result),
        "sums": {"lengths": LENGTHS, **{name: list(ratios) for name, ratios in sums.items()}},
        "picture": str(args.picture),
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


def stall(seed: int, advance: object = None, trials: int = 8) -> Ratios:
    """The sum of n values of mean 1 and deviation 1 in FP16, over the exact sum, for each way and length.

    After Wang et al. 2018 (arXiv 1812.08011): means over `trials` trials, shape (lengths,).
    """
    rng = np.random.default_rng(seed)
    codes = FP16.encode(1 + np.sqrt(3) * rng.uniform(-1, 1, (trials, LENGTHS[-1])))
    values = FP16.decode(codes).astype(np.float64)
    one = FP16.encode(np.ones((LENGTHS[-1], 1)))
    ratios: Ratios = {}
    for name, arithmetic in SUMS.items():
        source = {"seed": seed} if arithmetic.rounding == "stochastic" else {}
        sums = [arithmetic.gemm(codes[:, :n], one[:n], **source)[:, 0] for n in LENGTHS]
        exact = [values[:, :n].sum(axis=1) for n in LENGTHS]
        ratios[name] = np.array([np.mean(FP16.decode(s) / e) for s, e in zip(sums, exact, strict=True)])
        if callable(advance):
            advance()
    return ratios


def _accuracies(curves: dict[str, list[Epoch]]) -> Table:
    table = Table(title="digits, two hidden layers: accuracy on the 360 test images")
    table.add_column("recipe")
    for epoch in next(iter(curves.values())):
        table.add_column(f"epoch {epoch.epoch + 1}", justify="right")
    for name, epochs in curves.items():
        table.add_row(name, *(f"{e.test_accuracy:.1%}" for e in epochs))
    return table


def _draw(curves: dict[str, list[Epoch]], sums: Ratios, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for (name, epochs), style in zip(curves.items(), ("-", "-", "--"), strict=True):
        left.plot(
            [e.epoch + 1 for e in epochs],
            [100 * e.test_accuracy for e in epochs],
            style,
            marker="o",
            label=name,
        )
    left.set(xlabel="epoch", ylabel="test accuracy, %", title="Digits, 64–128–64–10")
    left.legend(loc="lower right")
    for (name, ratios), style in zip(sums.items(), ("-", "--", "-"), strict=True):
        right.plot(LENGTHS, ratios, style, marker="o", label=name)
    right.axvline(4096, color="grey", linewidth=0.8, linestyle=":")
    right.annotate(
        "half an ulp exceeds\nevery addend", (4096, 0.45), (90, 0.3), arrowprops={"arrowstyle": "->"}
    )
    right.set_xscale("log", base=2)
    right.set(
        xlabel="terms",
        ylabel="sum ÷ exact sum",
        title="Why chunks: a sum of n terms in FP16 (1,6,9)",
        ylim=(0, 1.1),
    )
    right.legend(loc="lower left")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        figure.savefig(temporary, dpi=150)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        plt.close(figure)
