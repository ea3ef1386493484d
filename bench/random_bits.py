"""Whether the rounding errors of one matrix go together, and what few random bits do.

Four statistics of the error matrix E, 64 × 64, over seeds, where each output is rounded by bits of its own
("independent"), by its row's draw XOR its column's ("two draws", what not to do), and as
`quaver.golden.random_bits` has it:

- the mean of E's largest singular value;
- the root mean square correlation of two rows' errors;
- the variance of ‖column sums of E‖², over that with independent bits;
- the share of E's energy that its largest rank-one term has.

FixedPoint results have random fractions, errors in steps of the result. ChunkedFloat sums K products that are
far from exact; its errors are scaled to the same mean square, 1/6.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from quaver.golden.arithmetic import ChunkedFloat, FixedPoint
from quaver.golden.arithmetic.chunked_float import FewRandomBits
from quaver.golden.formats import FP16, FixedFormat
from quaver.golden.random_bits import first_draws, states

Errors = NDArray[np.float64]
SIZE, BITS = 64, 14
NAMES = ("largest singular value", "correlation of rows", "variance of ‖column sums‖²", "rank-one share")


def statistics(errors: list[Errors]) -> tuple[float, float, float, float]:
    """The four of many error matrices; the third is the variance itself, over that of Gaussian sums."""
    singular, correlation, sums, share = [], [], [], []
    for e in errors:
        values = np.linalg.svd(e, compute_uv=False)
        rows = e / np.sqrt((e**2).sum(axis=1, keepdims=True))
        pairs = (rows @ rows.T)[np.triu_indices(len(e), 1)]
        singular.append(values[0])
        correlation.append((pairs**2).mean())
        sums.append((e.sum(axis=0) ** 2).sum())
        share.append(values[0] ** 2 / (values**2).sum())
    wide = np.var(sums) / (2 * np.mean(sums) ** 2 / errors[0].shape[1])
    return float(np.mean(singular)), float(np.sqrt(np.mean(correlation))), float(wide), float(np.mean(share))


def rounded(bits: Callable[[int], NDArray[Any]], seed: int) -> Errors:
    """Errors of random fractions, rounded by `bits` of the seed; the bias of few random bits taken out."""
    fractions = np.random.default_rng(seed).random((SIZE, SIZE))
    return np.floor(fractions + bits(seed) * 2.0**-BITS) - fractions + 2.0 ** -(BITS + 1)


def independent(seed: int) -> NDArray[Any]:
    return np.random.default_rng(seed + (1 << 32)).integers(0, 1 << BITS, (SIZE, SIZE))


def two_draws(seed: int) -> NDArray[Any]:
    rows, columns = np.random.default_rng(seed + (1 << 32)).integers(0, 1 << BITS, (2, SIZE))
    return rows[:, None] ^ columns


def golden(seed: int) -> NDArray[Any]:
    return first_draws(states(seed), SIZE, SIZE, BITS).astype(np.int64)


def fixed_point(seed: int) -> Errors:
    """Errors of the arithmetic's own GEMM."""
    fmt = FixedFormat(1, 15)
    arithmetic = FixedPoint(fmt, fmt, FixedFormat(14, 2), random_bits=BITS)
    rng = np.random.default_rng(seed)
    a, b = (fmt.codes(rng.integers(-(1 << 15), 1 << 15, (SIZE, SIZE))) for _ in range(2))
    exact = fmt.decode(a).astype(np.float64) @ fmt.decode(b).astype(np.float64) * 4
    return arithmetic.result.integers(arithmetic.gemm(a, b, seed=seed)) - exact + 2.0 ** -(BITS + 1)


def factors(products: int, seed: int) -> tuple[Errors, Errors]:
    """Operands between 1 and 2 whose products all have an odd last bit, far below (1,6,9)'s."""
    rng = np.random.default_rng(seed)
    shapes = (SIZE, products), (products, SIZE)
    a, b = (1 + (2 * rng.integers(0, 256, shape) + 1) / 512 for shape in shapes)
    return a, b


def chunked_float(products: int, seed: int) -> Errors:
    """Errors of sums of products in (1,6,9), without chunks."""
    arithmetic = ChunkedFloat(FP16, chunk=products, rounding="stochastic", random_bits=BITS)
    a, b = factors(products, seed)
    return scaled(FP16.decode(arithmetic.gemm(FP16.encode(a), FP16.encode(b), seed=seed)) - a @ b)


def sums_by_hand(draw: Callable[[int, int], NDArray[Any]], products: int, seed: int) -> Errors:
    """The same sums, a rounded addition at a time, with the random bits of `draw` (seed, n)."""
    a, b = factors(products, seed)
    total = np.zeros((SIZE, SIZE))
    for n in range(products):
        total += np.outer(a[:, n], b[n])
        step = 2.0 ** (np.floor(np.log2(total)) - 9)
        total = np.floor(total / step + draw(seed, n) * 2.0**-BITS) * step
    return scaled(total - a @ b)


def scaled(errors: Errors) -> Errors:
    return errors / np.sqrt((errors**2).mean() * 6)


def retention(bits: int, length: int = 65536, sums: int = 48) -> tuple[float, float]:
    """What sums in (1,6,9) of values with mean and deviation 1 keep, without chunks: sum / exact; and the
    mean error of one rounding, in steps."""
    values = np.random.default_rng(bits).uniform(1 - math.sqrt(3), 1 + math.sqrt(3), (sums, length))
    codes, ones = FP16.encode(values), FP16.encode(np.ones((length, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewRandomBits)
        arithmetic = ChunkedFloat(FP16, chunk=length, rounding="stochastic", random_bits=bits)
    kept = FP16.decode(arithmetic.gemm(codes, ones, seed=bits))[:, 0] / FP16.decode(codes).sum(1, np.float64)
    rng = np.random.default_rng(bits)
    fractions = rng.random(1 << 22)
    up = np.floor(fractions * 2.0**bits) + rng.integers(0, 1 << bits, fractions.shape) >= 1 << bits
    return float(kept.mean()), float(np.mean(up - fractions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3000)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()

    def n_th(draw: Callable[[int], NDArray[Any]]) -> Callable[[int, int], NDArray[Any]]:
        return lambda seed, n: draw(seed * 1000 + n)

    ways: dict[str, Callable[[int], Errors]] = {
        "fractions, independent": partial(rounded, independent),
        "fractions, two draws": partial(rounded, two_draws),
        "fractions, golden": partial(rounded, golden),
        "FixedPoint": fixed_point,
    }
    for products in (1, 2, 16):
        ways |= {
            f"ChunkedFloat, K = {products}, independent": partial(sums_by_hand, n_th(independent), products),
            f"ChunkedFloat, K = {products}, two draws": partial(sums_by_hand, n_th(two_draws), products),
            f"ChunkedFloat, K = {products}": partial(chunked_float, products),
        }
    table = {
        name: statistics([way(seed) for seed in range(1, options.seeds + 1)]) for name, way in ways.items()
    }
    few = {bits: retention(bits) for bits in (4, 6, 8, 9, 10, 12, 14)}
    if options.json:
        print(json.dumps({"statistics": table, "few_bits": few}))
        return
    console = Console()
    shown = Table(title=f"Errors of {SIZE} × {SIZE} results, {options.seeds} seeds")
    for header in ("", *NAMES):
        shown.add_column(header, justify="right" if header else "left")
    for name, values in table.items():
        shown.add_row(name, f"{values[0]:.3f}", f"{values[1]:.4f}", f"{values[2]:.2f}", f"{values[3]:.4f}")
    console.print(shown)
    shown = Table(title="Few random bits: bias of one rounding, and what a sum of 65,536 terms keeps")
    for header in ("bits", "bias in steps", "−2^−(R+1)", "sum ÷ exact"):
        shown.add_column(header, justify="right")
    for bits, (kept, bias) in few.items():
        shown.add_row(str(bits), f"{bias:.5f}", f"{-(2.0 ** -(bits + 1)):.5f}", f"{kept:.3f}")
    console.print(shown)


if __name__ == "__main__":
    main()
