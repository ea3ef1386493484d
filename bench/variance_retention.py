"""Monte Carlo beside theory: how much variance do real reduced-width sums keep?

Sums of n random FP8 products by the golden kernel, in accumulators of few mantissa bits: rounded to nearest,
stochastically, and in chunks. For each, the variance of the sum over that of the exact sum (VRR, what the
theory predicts), and the mean squared error over it (what the theory does not look at).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from quaver.cli.files import write_figure
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.formats import FP8, FloatFormat
from quaver.golden.planning.variance_retention import LARGEST_LOSS, largest_length, retention

SEED = 1
WIDTHS = (4, 5, 6, 7)
LENGTHS = tuple(1 << e for e in range(4, 14))
CHUNK = 64
#: A GEMM makes this many sums squared; they share operands, so only different GEMMs are independent.
SIDE = 64

WAYS: dict[str, dict[str, Any]] = {
    "nearest": {"rounding": "nearest", "chunk": LENGTHS[-1]},
    "stochastic": {"rounding": "stochastic", "chunk": LENGTHS[-1]},
    "chunked": {"rounding": "nearest", "chunk": CHUNK},
}


@dataclass(frozen=True)
class Point:
    """`vrr` ± `deviation` is simulated, `theory` predicted; `error` is the mean squared error."""

    way: str
    mantissa_bits: int
    length: int
    theory: float
    vrr: float
    deviation: float
    error: float


def simulate(length: int, gemms: int) -> list[Point]:
    """Every way and width at one length, on the same products of standard normal numbers rounded to FP8."""
    rng = np.random.default_rng([SEED, length])
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for gemm in range(gemms):
        a = FP8.encode(rng.standard_normal((SIDE, length)))
        b = FP8.encode(rng.standard_normal((length, SIDE)))
        exact = FP8.decode(a).astype(np.float64) @ FP8.decode(b).astype(np.float64)
        variance = np.mean(exact**2)
        for way, options in WAYS.items():
            for bits in WIDTHS:
                arithmetic = ChunkedFloat(accumulator=FloatFormat(6, bits), **options)
                codes = arithmetic.gemm(a, b, seed=gemm + 1 if arithmetic.stochastic else None)
                sums = arithmetic.result.decode(codes).astype(np.float64)
                error = np.mean((sums - exact) ** 2)
                found.setdefault((way, bits), []).append((np.mean(sums**2) / variance, error / variance))
    points = []
    for (way, bits), pairs in found.items():
        theory = float(retention(length, bits, chunk=CHUNK if way == "chunked" else None))
        vrr, error = (float(mean) for mean in np.mean(pairs, axis=0))
        deviation = float(np.std([v for v, _ in pairs], ddof=1)) / gemms**0.5
        points.append(Point(way, bits, length, theory, vrr, deviation, error))
    return points


def knee(points: list[Point]) -> float | None:
    """Where n·(1 − VRR) crosses ln 50, between two lengths on logarithmic scales; None where it does not."""
    losses = [(p.length, p.length * max(1 - p.vrr, 1e-9)) for p in points]
    for (n0, loss0), (n1, loss1) in pairwise(losses):
        if loss0 < LARGEST_LOSS <= loss1:
            return float(n0 * (n1 / n0) ** (np.log(LARGEST_LOSS / loss0) / np.log(loss1 / loss0)))
    return None


def draw(points: list[Point], path: Path) -> None:
    """VRR, and squared error, against length: lines are theory, marks are simulated."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(12, 5), layout="constrained")
    figure.suptitle("How much variance do sums of FP8 products keep?", fontsize=13, fontweight="bold")
    left, right = figure.subplots(1, 2)
    n = np.unique(np.geomspace(LENGTHS[0], LENGTHS[-1], 200).astype(int))
    marks = {"nearest": "o", "stochastic": "^", "chunked": "s"}
    for bits in WIDTHS:
        colour = colormaps["viridis"](0.85 * (bits - WIDTHS[0]) / (WIDTHS[-1] - WIDTHS[0]))
        left.plot(n, retention(n, bits), color=colour)
        left.plot(n, retention(n, bits, chunk=CHUNK), color=colour, linestyle=":")
        for way, mark in marks.items():
            line = [p for p in points if (p.way, p.mantissa_bits) == (way, bits)]
            lengths = [p.length for p in line]
            fill = colour if way == "nearest" else "white"
            left.plot(lengths, [p.vrr for p in line], mark, color=colour, markerfacecolor=fill)
            right.plot(
                lengths,
                [p.error for p in line],
                f"{mark}-",
                color=colour,
                markerfacecolor=fill,
                linewidth=0.7,
            )
        left.text(n[-1] * 1.1, float(retention(n[-1], bits)), f"{bits} bits", color=colour, va="center")
    names = {"nearest": "nearest", "stochastic": "stochastic", "chunked": f"nearest, chunks of {CHUNK}"}
    handles = [
        Line2D([], [], color="0.3", marker=marks[way], linestyle="", label=f"simulated, {name}",
               markerfacecolor="0.3" if way == "nearest" else "white")
        for way, name in names.items()
    ]  # fmt: skip
    handles += [
        Line2D([], [], color="0.3", label="theory"),
        Line2D([], [], color="0.3", linestyle=":", label=f"theory, chunks of {CHUNK}"),
    ]
    left.legend(handles=handles, frameon=False, loc="lower left", fontsize=9)
    left.set(xscale="log", ylim=(0.4, 1.3), xlabel="terms n", title="Variance retention ratio")
    right.set(xscale="log", yscale="log", xlabel="terms n", title="Mean squared error ÷ variance of the sum")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    write_figure(path, figure)


def table(points: list[Point]) -> Table:
    """VRR at two lengths, and the knees; in chunks n is the whole length, VRR the two stages' product."""
    shown = LENGTHS[4::4]
    result = Table(title="VRR, theory | simulated; and the knee, where v(n) = 50", box=SIMPLE_HEAD)
    for heading in ("sum", "bits", *(f"n = {n:,}" for n in shown), "knee", "simulated", "ratio"):
        result.add_column(heading, justify="left" if heading == "sum" else "right", no_wrap=True)
    for way in WAYS:
        for bits in WIDTHS:
            line = [p for p in points if (p.way, p.mantissa_bits) == (way, bits)]
            predicted = largest_length(bits, chunk=CHUNK if way == "chunked" else None, rule="whole")
            simulated = knee(line)
            result.add_row(
                way,
                str(bits),
                *(f"{p.theory:.3f} | {p.vrr:.3f}" for p in line if p.length in shown),
                f"{predicted:,}",
                f"{simulated:,.0f}" if simulated else "none",
                f"{simulated / predicted:.2f}" if simulated else "–",
            )
        result.add_section()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gemms", type=int, default=16, help=f"GEMMs of {SIDE}² sums at each length (16)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw it: FILE.png, .svg or .pdf")
    options = parser.parse_args()
    if options.gemms < 2:
        parser.error(f"--gemms is {options.gemms}, but a deviation needs at least 2")
    lengths = track(LENGTHS, "sums", console=Console(stderr=True), transient=True)
    points = [point for length in lengths for point in simulate(length, options.gemms)]
    if options.figure:
        draw(points, options.figure)
    if options.json:
        print(json.dumps([asdict(point) for point in points], indent=1))
        return
    console = Console()
    console.print(table(points))
    errors = {p.way: p.error for p in points if (p.mantissa_bits, p.length) == (5, LENGTHS[-1])}
    console.print(
        f"5 bits, n = {LENGTHS[-1]:,}: chunks of {CHUNK} divide the mean squared error by "
        f"{errors['nearest'] / errors['chunked']:.0f}; stochastic rounding multiplies it by "
        f"{errors['stochastic'] / errors['nearest']:.1f}, but keeps the mean."
    )


if __name__ == "__main__":
    main()
