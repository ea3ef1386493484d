"""A training step's time: FP32 in NumPy, the golden FP8 recipe, and the same with stochastic sums.

The three take steps in turn, so that a busy machine slows them all, and the ratios are medians of those of
one turn. On one thread, time is the processor's. Images are random: what they show costs no time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self
from unittest import mock

import numba
import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from quaver.golden import kernels
from quaver.golden.data import Dataset
from quaver.golden.nn import models, recipes
from quaver.golden.nn.layers import GemmLayer
from quaver.golden.nn.recipe import Recipe
from quaver.golden.nn.run import Call
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer

#: model → shape of an image, images in a batch
CASES = {"mlp": ((1, 28, 28), 128), "cnn": ((1, 28, 28), 128), "resnet20": ((3, 32, 32), 32)}
RECIPES = (recipes.fp32, recipes.fp8, recipes.fp8_stochastic)
#: name → the two recipes whose times are divided
RATIOS = {"fp8 : fp32": ("fp8", "fp32"), "stochastic : nearest": ("fp8-stochastic", "fp8")}
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


def now() -> float:
    """Seconds: of the processor, so that no other program counts; of the clock where threads share work."""
    return time.process_time() if numba.get_num_threads() == 1 else time.perf_counter()


def seconds(step: Callable[[], object]) -> float:
    start = now()
    step()
    return now() - start


class Stopwatch:
    """Adds up the time spent in methods; `inside` of one is taken off another. Outside its block nothing is
    watched."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.patches = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.patches.close()

    def watch(self, thing: Any, method: str, part: str, inside: str | None = None) -> None:
        original = getattr(thing, method)

        def watched(*args: Any, **options: Any) -> Any:
            start, before = now(), self.spent[inside] if inside else 0.0
            try:
                return original(*args, **options)
            finally:
                own = self.spent[inside] - before if inside else 0.0
                self.spent[part] += now() - start - own

        self.patches.enter_context(mock.patch.object(thing, method, watched))


def where_time_goes(trainer: Trainer, steps: int) -> dict[str, float]:
    """Milliseconds of each part in a step, the mean of `steps`."""
    run = trainer.run
    with Stopwatch() as watch:
        watch.watch(run.engine, "gemm", "GEMMs")
        watch.watch(kernels.float32, "matmul", "GEMMs")
        watch.watch(run, "gemm", "results to values", inside="GEMMs")
        watch.watch(run, "operand", "casts to operands")
        watch.watch(run, "round", "rounding between GEMMs")
        watch.watch(trainer, "_update", "updates")
        total = sum(seconds(trainer.train_step) for _ in range(steps))
    watch.spent["the rest"] = total - sum(watch.spent.values())
    return {part: 1e3 * watch.spent[part] / steps for part in PARTS}


def measure(model: str, steps: int) -> dict[str, Any]:
    trainers = {recipe.name: make(model, recipe) for recipe in RECIPES}
    for trainer in trainers.values():
        trainer.train_step()  # compiles
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(steps):
        for name, trainer in trainers.items():
            times[name].append(seconds(trainer.train_step))
    ratios = {
        name: statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))
        for name, (one, other) in RATIOS.items()
    }
    return {
        "model": model,
        "batch": CASES[model][1],
        "gemm_layers": sum(isinstance(layer, GemmLayer) for layer in trainers["fp8"].network.walk()),
        "macs_per_step": macs_per_step(trainers["fp8"]),
        "milliseconds": {name: 1e3 * statistics.median(t) for name, t in times.items()},
        "ratios": ratios,
        "where": {name: where_time_goes(trainer, steps) for name, trainer in trainers.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=CASES, metavar="NAME")
    parser.add_argument(
        "--steps", type=int, default=15, help="steps of each recipe, medians of which are shown (15)"
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
    names = [recipe.name for recipe in RECIPES]
    table = Table(title="A training step, medians")
    for column in ("model", "batch", "M MAC", *(f"{name}, ms" for name in names), *RATIOS):
        table.add_column(column, justify="right")
    parts = Table(title="Where a step's milliseconds go")
    for column in ("model", "recipe", *PARTS):
        parts.add_column(column, justify="right")
    for r in results:
        table.add_row(
            *(r["model"], str(r["batch"]), f"{r['macs_per_step'] / 1e6:,.0f}"),
            *(f"{r['milliseconds'][name]:.2f}" for name in names),
            *(f"{ratio:.2f}" for ratio in r["ratios"].values()),
        )
        for name in names:
            parts.add_row(r["model"], name, *(f"{r['where'][name][part]:.2f}" for part in PARTS))
    console = Console()
    console.print(table)
    console.print(parts)


if __name__ == "__main__":
    main()
