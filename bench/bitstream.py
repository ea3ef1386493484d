"""Bit streams: how fast they are counted, and the variance of their dot products against theory.

The speed is that of whole products, generators included, and of the counting alone, against a loop of NumPy's
own `bitwise_count` over the same packed words, both on one thread; then the statistical model's and that of a
product of float32 matrices. The variance is that of dot products of d random operands with L bits: the mean
square of the errors over the documented formula, 1 where they agree, and beside them the van der Corput
generator's. Last, what it costs to share generators in other ways: the mean square of the errors over that
of independent numbers, of an output of random operands, of one of operands that are all 1/2, and of the
latter's mean over all 64 outputs.

With --mnist, in place of all three, accuracy against stream length: of networks trained with streams in the
forward GEMMs alone and in all three, and of one trained in float32 whose GEMMs are streams for inference
only. The noise is drawn by the statistical model; all networks begin alike and see the same batches.

    python bench/bitstream.py --figure bitstream.png
    python bench/bitstream.py --only speed --json
    python bench/bitstream.py --mnist DIRECTORY --widths 256 --epochs 1 --figure mnist.png
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from quaver.cli.files import write_figure
from quaver.golden import data
from quaver.golden.arithmetic import Bitstream
from quaver.golden.arithmetic.bitstream import Circuit, Sharing
from quaver.golden.bitstream_noise import NoiseEngine, sample, variance
from quaver.golden.kernels import bitstream as kernel
from quaver.golden.lfsr import numbered_seed
from quaver.golden.nn import models
from quaver.golden.nn.quantisers import DivergedError
from quaver.golden.nn.recipes import recipe
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer

TERMS, LENGTHS = (10, 32, 100, 320, 1000), (16, 64, 256, 1024, 4096)
ROWS, COLUMNS = 8, 8


def operands(arithmetic: Bitstream, m: int, k: int, n: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(k)
    a, b = (rng.integers(0, 1 << arithmetic.a.bits, shape) for shape in ((m, k), (k, n)))
    return a.astype(arithmetic.a.code_dtype), b.astype(arithmetic.b.code_dtype)


def seconds(work: Callable[[], Any], least: float = 0.3) -> float:
    """Of one call: the best of a few, after one that compiles."""
    work()
    best, began = np.inf, time.perf_counter()
    while time.perf_counter() - began < least:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def numpy_loop(a: Any, b: Any) -> Any:
    """What the kernel counts for XNOR, a row and a product at a time."""
    counts = np.zeros((len(a), len(b)), np.int64)
    for i in range(len(a)):
        for k in range(a.shape[1]):
            counts[i] += np.bitwise_count(a[i, k] ^ b[:, k]).sum(axis=1, dtype=np.int64)
    return counts


def speed(m: int, k: int, n: int, length: int) -> dict[str, float]:
    """G bit-MAC/s, of each way to compute the product; of the model what the streams would have taken."""
    rng, work = np.random.default_rng(1), m * k * n * length / 1e9
    a, b = (rng.integers(0, 1 << 64, (rows, k, length // 64), np.uint64) for rows in (m, n))
    signs = [rng.integers(0, 2, (rows, k)).astype(bool) for rows in (m, n)]
    if not np.array_equal(numpy_loop(a[:2], b), kernel.differing(a[:2], b)):
        raise AssertionError("the kernel counts otherwise than NumPy")
    few = max(1, m // 16)  # rows, for the loop
    arithmetic = Bitstream(length=length)
    x, y = operands(arithmetic, m, k, n)
    floats = arithmetic.a.decode(x), arithmetic.b.decode(y)
    return {
        "NumPy's bitwise_count": work * few / m / seconds(lambda: numpy_loop(a[:few], b)),
        "kernel, XNOR": work / seconds(lambda: kernel.differing(a, b)),
        "kernel, AND with signs": work / seconds(lambda: kernel.signed_ones(a, signs[0], b, signs[1])),
        "GEMM, generators included": work / seconds(lambda: arithmetic.gemm(x, y, seed=1)),
        "statistical model": work / seconds(lambda: sample(arithmetic, x, y, seed=1)),
        "float32 product": work / seconds(lambda: floats[0] @ floats[1]),
    }


def point(arithmetic: Bitstream, d: int, seeds: int) -> dict[str, Any]:
    """Mean square error of dot products of d terms, and the theory's."""
    a, b = operands(arithmetic, ROWS, d, COLUMNS)
    exact = arithmetic.a.decode(a).astype(np.float64) @ arithmetic.b.decode(b)
    codes = np.array([arithmetic.gemm(a, b, seed=numbered_seed(d, s)) for s in range(seeds)])
    errors = arithmetic.result.decode(codes) - exact
    theory = variance(replace(arithmetic, generator="lfsr"), a, b)
    each = (errors**2 / theory).mean(axis=(1, 2))
    return {
        "circuit": str(arithmetic.circuit),
        "generator": str(arithmetic.generator),
        "terms": d,
        "length": arithmetic.length,
        "measured": float((errors**2).mean()),
        "theory": float(theory.mean()),
        "ratio": float(each.mean()),
        "error_of_ratio": float(each.std(ddof=1) / np.sqrt(seeds)),
    }


def cost(sharing: Sharing, seeds: int, d: int = 64) -> dict[str, Any]:
    """Mean square errors of AND's outputs of d terms, over those of independent numbers."""
    arithmetic = Bitstream(sharing=sharing)
    random = operands(arithmetic, ROWS, d, COLUMNS)
    alike = (arithmetic.a.encode(np.full(codes.shape, 0.5)) for codes in random)

    def errors(a: Any, b: Any) -> Any:
        """Standardised: (seeds, rows, columns)."""
        exact = arithmetic.a.decode(a).astype(np.float64) @ arithmetic.b.decode(b)
        codes = np.array([arithmetic.gemm(a, b, seed=numbered_seed(d, s)) for s in range(seeds)])
        return (arithmetic.result.decode(codes) - exact) / np.sqrt(variance(Bitstream(), a, b))

    of_alike = errors(*alike)
    return {
        "sharing": str(sharing),
        "random operands": float((errors(*random) ** 2).mean()),
        "operands of 1/2": float((of_alike**2).mean()),
        "mean of all outputs": float((of_alike.mean(axis=(1, 2)) ** 2).mean() * ROWS * COLUMNS),
    }


def draw(points: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.5), layout="constrained")
    figure.suptitle("Variance of a dot product of d terms by bit streams", fontsize=13, fontweight="bold")
    for axes, circuit in zip(figure.subplots(1, 3, sharey=True), Circuit, strict=True):
        for colour, d in enumerate(TERMS):
            for generator, marker in (("lfsr", "o"), ("van_der_corput", "x")):
                chosen = [
                    p for p in points if (p["circuit"], p["generator"], p["terms"]) == (circuit, generator, d)
                ]
                lengths = [p["length"] for p in chosen]
                label = f"d = {d}" if generator == "lfsr" else None
                axes.loglog(lengths, [p["measured"] for p in chosen], marker, color=f"C{colour}", label=label)
                if generator == "lfsr":
                    axes.loglog(lengths, [p["theory"] for p in chosen], "-", color=f"C{colour}", lw=1)
        axes.set(title=circuit, xlabel="bits of a stream")
    figure.axes[0].set_ylabel("variance (lines: theory; ×: van der Corput)")
    figure.axes[0].legend()
    write_figure(path, figure)


#: Ways to use streams, and the recipe of a way and a length.
WAYS = {
    "training, forward GEMMs": "bitstream-{}",
    "training, all GEMMs": "bitstream-{}-everywhere",
    "inference alone": "bitstream-{}",
}


def mnist(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Test accuracy by way and length, float32's first; a line each as it comes."""
    digits = data.load("mnist", options.mnist)
    settings = Settings(epochs=options.epochs, batch=64, seed=options.seed)
    test = digits.test_images, digits.test_labels
    lines: list[dict[str, Any]] = []

    def trainer(name: str) -> Trainer:
        rng = np.random.default_rng(options.seed)
        network = models.mlp(digits.shape, digits.classes, rng, tuple(options.widths))
        return Trainer(network, digits, recipe(name), settings, engine=NoiseEngine())

    def add(way: str, length: int | None, run: Trainer) -> None:
        began, accuracy = time.process_time(), None  # None: it has diverged
        with suppress(DivergedError):
            if way != "inference alone":
                for _ in run.steps():
                    pass
            accuracy = run.evaluate(*test)[1]
        seconds = round(time.process_time() - began, 1)
        line = {"way": way, "length": length, "accuracy": accuracy, "processor seconds": seconds}
        lines.append(line)
        print(json.dumps(line), file=sys.stderr, flush=True)

    exact = trainer("fp32")
    add("float32", None, exact)
    for length in options.lengths:
        for way, name in WAYS.items():
            run = trainer(name.format(length))
            if way == "inference alone":
                run.restore(exact.state())
            add(way, length, run)
    return lines


def show_mnist(lines: list[dict[str, Any]], options: argparse.Namespace, console: Console) -> None:
    """The table and, if asked for, the curves."""
    sizes = "-".join(map(str, (784, *options.widths, 10)))
    title = f"MNIST, {sizes}, epochs: {options.epochs}; test accuracy, in float32 {lines[0]['accuracy']:.2%}"
    table = Table("bits of a stream", *WAYS, title=title)
    for length in options.lengths:
        of_length = {line["way"]: line["accuracy"] for line in lines if line["length"] == length}
        found = {way: "diverged" if right is None else f"{right:.2%}" for way, right in of_length.items()}
        table.add_row(str(length), *(found[way] for way in WAYS))
    console.print(table)
    if options.figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        axes.axhline(lines[0]["accuracy"], color="black", lw=1, label="float32")
        for way in WAYS:
            chosen = {
                line["length"]: line["accuracy"] for line in lines if line["way"] == way and line["accuracy"]
            }
            axes.semilogx(list(chosen), list(chosen.values()), "o-", label=way, base=2)
        axes.set(title=title, xlabel="bits of a stream", ylabel="test accuracy")
        axes.legend()
        write_figure(options.figure, figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=("speed", "variance", "sharings"), help="one of the three")
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 512, 256), metavar=("M", "K", "N"))
    parser.add_argument("--length", type=int, default=256, help="bits of a stream, at least 64 (default 256)")
    parser.add_argument(
        "--seeds",
        type=int,
        default=20,
        help="results of 8 × 8 outputs a point (20), ten times as many a sharing",
    )
    parser.add_argument("--longest", type=int, default=4096, help="bits of the longest stream (4096)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw it: FILE.png, .svg or .pdf")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="accuracy on MNIST, whose files are there")
    parser.add_argument("--widths", type=int, nargs="+", default=[256], help="of its hidden layers (256)")
    parser.add_argument("--epochs", type=int, default=1, help="of its training (1)")
    parser.add_argument("--seed", type=int, default=1, help="of its training (1)")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="bits of its streams")
    options = parser.parse_args()
    if options.length not in (64, 128, 256, 512, 1024, 2048, 4096):
        parser.error(
            f"--length is {options.length}, but speed is that of whole words: 64, 128, 256, … or 4096 bits"
        )
    if options.seeds < 2:
        parser.error(f"--seeds is {options.seeds}, but a spread takes 2 or more")
    if options.figure and options.only in ("speed", "sharings"):
        parser.error(f"--figure draws the variance, but --only is {options.only}; leave out one of the two")
    if options.mnist:
        lines = mnist(options)
        if options.json:
            print(json.dumps(lines))
        show_mnist(lines, options, Console(stderr=options.json, width=110))
        return
    rates = speed(*options.shape, options.length) if options.only in (None, "speed") else {}
    points = [
        point(Bitstream(length=length, circuit=circuit, generator=generator), d, options.seeds)
        for circuit in (Circuit if options.only in (None, "variance") else ())
        for generator in ("lfsr", "van_der_corput")
        for d in TERMS
        for length in LENGTHS
        if length <= options.longest
    ]
    sharings = [
        cost(sharing, 10 * options.seeds) for sharing in Sharing if options.only in (None, "sharings")
    ]
    if options.json:
        print(json.dumps({"speed": rates, "variance": points, "sharings": sharings}))
    console = Console(stderr=options.json, width=110)
    if rates:
        table = Table("", "G bit-MAC/s", "× NumPy's", title="× ".join(map(str, options.shape)))
        reference = rates["NumPy's bitwise_count"]
        for name, rate in rates.items():
            table.add_row(name, f"{rate:.2f}", f"{rate / reference:.1f}")
        console.print(table)
    if points:
        table = Table("circuit", "generator", "d", "bits", "measured", "theory", "ratio")
        for p in points:
            ratio = f"{p['ratio']:.3g} ± {p['error_of_ratio']:.2g}"
            values = (f"{p['measured']:.3g}", f"{p['theory']:.3g}", ratio)
            table.add_row(p["circuit"], p["generator"], str(p["terms"]), str(p["length"]), *values)
        console.print(table)
    if sharings:
        table = Table(*sharings[0], title="mean square error, × that of independent numbers")
        for line in sharings:
            table.add_row(*(value if isinstance(value, str) else f"{value:.3g}" for value in line.values()))
        console.print(table)
    if options.figure:
        draw(points, options.figure)


if __name__ == "__main__":
    main()
