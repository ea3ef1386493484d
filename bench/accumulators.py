"""Gradient GEMMs of K = 65,536 … 3.2 million: the error of today's accumulators and of Wang et al.'s.

Operands are FP8 (1-5-2): activations of a ReLU, half of them zero, times normal errors, and the same with
every error's magnitude, whose sums have a mean. Errors are root mean squares over the exact sums'.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from quaver.golden.arithmetic import AlignedFloat, ChunkedFloat
from quaver.golden.arithmetic.chunked_float import NO_CHUNKS
from quaver.golden.formats import FP8, FP32
from quaver.golden.kernels import float32

LENGTHS = (65_536, 131_072, 262_144, 524_288, 1_048_576, 2_097_152, 3_211_264)  # the last 64 · 224²
UNITS: dict[str, Any] = {
    "chunked 1-6-9 in 64": ChunkedFloat(),
    "the same, totals FP32": ChunkedFloat(total=FP32),
    "hopper_fp8_fast": AlignedFloat(FP8, FP8, chunk=NO_CHUNKS),
    "hopper_fp8, promoted": AlignedFloat(FP8, FP8),
    "float32": None,
}


def errors(k: int, mean: bool, rows: int, columns: int) -> dict[str, float]:
    """Unit → its error in sums of k products."""
    random = np.random.default_rng(k)
    a = FP8.encode(np.maximum(random.standard_normal((rows, k), np.float32), 0))
    values = random.standard_normal((k, columns), np.float32)
    b = FP8.encode(np.abs(values) if mean else values)
    left, right = FP8.decode(a), FP8.decode(b)
    exact = np.zeros((rows, columns))
    for start in range(0, k, 1 << 18):
        part = slice(start, start + (1 << 18))
        exact += left[:, part].astype(np.float64) @ right[part].astype(np.float64)
    found = {}
    for name, unit in UNITS.items():
        c = float32.matmul(left, right) if unit is None else unit.result.decode(unit.gemm(a, b))
        found[name] = float(np.sqrt(np.mean((c - exact) ** 2) / np.mean(exact**2)))
    return found


def draw(results: dict[str, list[dict[str, float]]], lengths: list[int], file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(11, 4.2), sharey=True, layout="constrained")
    for axis, (title, rows) in zip(axes, results.items(), strict=True):
        for name in UNITS:
            axis.loglog(lengths, [row[name] for row in rows], marker="o", label=name)
        axis.set(title=title, xlabel="K, products in a sum")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("root mean square error over the sums'")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(UNITS))
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="*", default=list(LENGTHS), metavar="K")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--columns", type=int, default=16)
    parser.add_argument("--figure", type=Path, metavar="FILE", help="FILE.png, .svg or .pdf")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {}
    for title, mean in (("errors of either sign", False), ("of one sign", True)):
        for k in args.lengths:
            print(f"{title}: K {k:,}", file=sys.stderr)
            results.setdefault(title, []).append(errors(k, mean, args.rows, args.columns))
    if args.figure:
        draw(results, args.lengths, args.figure)
    if args.json:
        print(json.dumps({"lengths": args.lengths, "errors": results}))
        return
    for title, rows in results.items():
        table = Table(title=f"Relative error of gradient GEMMs, {title}")
        for column in ("K", *UNITS):
            table.add_column(column, justify="right")
        for k, row in zip(args.lengths, rows, strict=True):
            table.add_row(f"{k:,}", *(f"{row[name]:.2e}" for name in UNITS))
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
