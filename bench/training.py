"""Training throughput: the golden FP8 recipe against FP32 in NumPy on one network, and where the time goes.

One thread each, and the two take steps in turn, so that a busy machine slows both. Images are random: what
they show costs no time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from quaver.golden.data import Dataset
from quaver.golden.nn import models, recipes
from quaver.golden.nn.layers import GemmLayer
from quaver.golden.nn.recipe import Recipe
from quaver.golden.nn.run import Call
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer

#: model → shape of an image, images in a batch
CASES = {"mlp": ((1, 28, 28), 128), "cnn": ((1, 28, 28), 128), "resnet20": ((3, 32, 32), 32)}
PARTS = ("GEMMs", "casts to operands", "results to values", "rounding between GEMMs", "updates", "the rest")


def random_images(shape: tuple[int, int, int], count: int) -> Dataset:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, *shape), np.uint8), rng.integers(0, 10, count, np.uint8)
    return Dataset("random", 10, images, labels, images[:1], labels[:1])


def make(model: str, recipe: Recipe) -> Trainer:
    shape, batch = CASES[model]
    data = random_images(shape, 4 * batch)
    return Trainer(models.build(model, shape, 10), data, recipe, Settings(batch=batch, learning_rate=0.01))


def macs_per_step(trainer: Trainer) -> int:
    """Multiply-accumulates of one step's GEMMs, counted in a step of the FP8 recipe."""
    calls: list[Call] = []
    counted = Trainer(trainer.network, trainer.data, recipes.fp8, trainer.settings, trace=calls.append)
    counted.train_step()
    return sum(c.operands[0].size * c.operands[1].shape[1] for c in calls if c.role != "update")


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


class Stopwatch:
    """Adds up the time spent in methods; `inside` of one is taken off another."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)

    def watch(self, thing: Any, method: str, part: str, inside: str | None = None) -> None:
        original = getattr(thing, method)

        def watched(*args: Any, **options: Any) -> Any:
            start, before = time.perf_counter(), self.spent[inside] if inside else 0.0
            try:
                return original(*args, **options)
            finally:
                own = self.spent[inside] - before if inside else 0.0
                self.spent[part] += time.perf_counter() - start - own

        setattr(thing, method, watched)


def where_time_goes(trainer: Trainer, steps: int) -> dict[str, float]:
    """The share of each part in the time of `steps` steps."""
    watch, run = Stopwatch(), trainer.run
    watch.watch(run.engine, "gemm", "GEMMs")
    watch.watch(run, "gemm", "results to values", inside="GEMMs")
    watch.watch(run, "operand", "casts to operands")
    watch.watch(run, "round", "rounding between GEMMs")
    watch.watch(run, "update", "updates")
    total = sum(seconds(trainer.train_step) for _ in range(steps))
    watch.spent["the rest"] = total - sum(watch.spent.values())
    return {part: watch.spent[part] / total for part in PARTS}


def measure(model: str, steps: int) -> dict[str, Any]:
    fp32, fp8 = make(model, recipes.fp32), make(model, recipes.fp8)
    for trainer in (fp32, fp8):
        trainer.train_step()  # compiles
    times = [(seconds(fp32.train_step), seconds(fp8.train_step)) for _ in range(steps)]
    medians = [statistics.median(t) for t in zip(*times, strict=True)]
    macs, batch = macs_per_step(fp8), CASES[model][1]
    return {
        "model": model,
        "batch": batch,
        "gemm_layers": sum(isinstance(layer, GemmLayer) for layer in fp8.network.walk()),
        "macs_per_step": macs,
        "fp32_images_per_second": batch / medians[0],
        "fp8_images_per_second": batch / medians[1],
        "fp8_macs_per_second": macs / medians[1],
        "ratio": statistics.median(b / a for a, b in times),
        "shares": where_time_goes(fp8, steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=CASES, metavar="NAME")
    parser.add_argument(
        "--steps", type=int, default=7, help="steps of each recipe, medians of which are shown"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of NumPy's matrix product and of the kernels (1)"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    numba.set_num_threads(args.threads)
    with threadpool_limits(args.threads):
        results = [measure(model, args.steps) for model in args.models]
    if args.json:
        print(json.dumps(results))
        return
    table = Table(title="Training throughput, images/s, medians")
    for column in (
        "model",
        "batch",
        "M MAC/step",
        "FP32, NumPy",
        "FP8, golden",
        "FP8 G MAC/s",
        "time FP8 : FP32",
    ):
        table.add_column(column, justify="right")
    parts = Table(title="Where the FP8 time goes")
    for column in ("model", *PARTS):
        parts.add_column(column, justify="right")
    for r in results:
        table.add_row(
            *(r["model"], str(r["batch"]), f"{r['macs_per_step'] / 1e6:,.0f}"),
            *(f"{r['fp32_images_per_second']:,.0f}", f"{r['fp8_images_per_second']:,.0f}"),
            *(f"{r['fp8_macs_per_second'] / 1e9:.2f}", f"{r['ratio']:.2f}"),
        )
        parts.add_row(r["model"], *(f"{r['shares'][part]:.0%}" for part in PARTS))
    console = Console()
    console.print(table)
    console.print(parts)


if __name__ == "__main__":
    main()
