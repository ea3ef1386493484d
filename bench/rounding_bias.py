"""The bias of stochastic rounding with N random bits: variants A, B and C of IEEE P3109, exactly.

The mean over all draws of what rounding adds to a value, in steps of the last kept bit, and then over values:
the mean of it, and the largest. Values lie on a grid far finer than the random bits. A chain of adders
repeats the mean at every addition: with A, the one that arithmetics take by default, 2**-(N+1) of a step is
lost each time.
"""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from quaver.golden.rounding import Rounding, round_magnitude

VARIANTS = {"A": Rounding.STOCHASTIC, "B": Rounding.STOCHASTIC_B, "C": Rounding.STOCHASTIC_C}


def bias(variant: Rounding, bits: int, finer: int) -> tuple[float, float]:
    """The mean and the largest magnitude of the bias over values of `bits` + `finer` dropped bits."""
    dropped = bits + finer
    step = 1 << dropped
    each = []
    for magnitude in range(step):
        # Up for the draws from some value on: one bisection instead of every draw.
        low, high = 0, 1 << bits
        while low < high:
            middle = (low + high) // 2
            if round_magnitude(magnitude, dropped, variant, middle, bits):
                high = middle
            else:
                low = middle + 1
        each.append(Fraction((1 << bits) - low, 1 << bits) - Fraction(magnitude, step))
    return float(sum(each) / step), float(max(map(abs, each)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=int, nargs="*", default=list(range(1, 9)), metavar="N")
    parser.add_argument(
        "--finer", type=int, default=6, metavar="BITS", help="bits of a value below the draw's"
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="FILE.png, .svg or .pdf")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = {name: [bias(v, bits, args.finer) for bits in args.bits] for name, v in VARIANTS.items()}
    if args.figure:
        import matplotlib.pyplot as plt

        figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
        for name, rows in found.items():
            means = np.maximum(np.abs([mean for mean, _ in rows]), 1e-6)
            axis.semilogy(args.bits, means, marker="o", base=2, label=f"{name}, |mean|")
        axis.semilogy(args.bits, [worst for _, worst in found["C"]], "k:", base=2, label="C, the largest")
        axis.set(xlabel="N, random bits", ylabel="bias, steps of the last kept bit (below 1e-6: 1e-6)")
        axis.legend()
        axis.grid(alpha=0.3)
        figure.savefig(args.figure, dpi=150)
    if args.json:
        print(json.dumps({"bits": args.bits, "mean, largest": found}))
        return
    table = Table(title="Bias of stochastic rounding, in steps of the last kept bit")
    table.add_column("N", justify="right")
    for name in VARIANTS:
        table.add_column(f"{name}: mean", justify="right")
        table.add_column("largest", justify="right")
    for i, bits in enumerate(args.bits):
        table.add_row(str(bits), *(f"{x:.2e}" for rows in found.values() for x in rows[i]))
    Console().print(table)


if __name__ == "__main__":
    main()
