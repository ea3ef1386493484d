"""The accumulation stall: sums of n values in (1,6,9), nearest, stochastic and in chunks.

After Wang et al., NeurIPS 2018 (arXiv 1812.08011): values uniform with mean 1 and standard
deviation 1, here rounded to (1,6,9) first and multiplied by 1. Each figure is the mean of
sum / exact sum over independent rows; for stochastic rounding with its standard deviation.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from quaver.golden.arithmetic import ChunkedFloat
from quaver.golden.formats import FP16

LENGTHS = (4096, 16384, 65536)
CHUNKS = (8, 32, 64, 256)


def ratios(n: int, rows: int, seed: int) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over `rows` sums of n values of sum / exact sum, by way of summing."""
    values = np.random.default_rng(seed).uniform(1 - math.sqrt(3), 1 + math.sqrt(3), (rows, n))
    codes = FP16.encode(values)
    ones = FP16.encode(np.ones((n, 1)))
    exact = FP16.decode(codes).astype(np.float64).sum(axis=1)
    ways = {
        "nearest": ChunkedFloat(FP16, chunk=n),
        "stochastic": ChunkedFloat(FP16, chunk=n, rounding="stochastic"),
        **{f"chunk {chunk}": ChunkedFloat(FP16, chunk=chunk) for chunk in CHUNKS},
    }
    found = {}
    for name, arithmetic in ways.items():
        ratio = (
            FP16.decode(arithmetic.gemm(codes, ones, seed=seed if arithmetic.stochastic else None))[:, 0]
            / exact
        )
        found[name] = float(ratio.mean()), float(ratio.std())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--rows", type=int, default=48, help="independent sums of each length")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()

    found: dict[int, dict[str, Any]] = {n: ratios(n, options.rows, options.seed) for n in options.lengths}
    if options.json:
        print(json.dumps(found))
        return
    table = Table(title=f"FP16 sum of n values / exact sum, mean of {options.rows} sums")
    table.add_column("n", justify="right")
    for name in found[options.lengths[0]]:
        table.add_column(name, justify="right")
    for n, by_name in found.items():
        cells = [
            f"{mean:.3f} ± {deviation:.3f}" if name == "stochastic" else f"{mean:.4f}"
            for name, (mean, deviation) in by_name.items()
        ]
        table.add_row(f"{n:,}", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
