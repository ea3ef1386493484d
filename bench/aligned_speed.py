"""Speed of the fused kernels on one core, beside float32's matrix product and the scalar definition.

G MAC/s of a product of normal operands, in processor time, the best of several runs; sgemm is NumPy's BLAS in
the same process. A public bit-exact model of tensor cores computes an output at a time in scalar Python or
PyTorch: the definition here stands for its order of magnitude.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from rich.console import Console
from rich.table import Table

from quaver.golden.arithmetic.named import TENSOR_CORES, named
from quaver.golden.kernels import float32

SCALAR = "hopper_fp8, an output at a time"
ALSO = ("fp8", "aligned_float(group=4)", "fp8(total=fp32)")


def rate(function: Callable[[], Any], macs: int, runs: int) -> float:
    function()  # compiles
    best = min(_seconds(function) for _ in range(runs))
    return macs / best / 1e9


def _seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 2048, 512], metavar=("M", "K", "N"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    numba.set_num_threads(1)
    m, k, n = args.shape
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    sgemm = rate(lambda: float32.matmul(x, y), m * k * n, args.runs)
    rates = {"sgemm": sgemm}
    for name in (*TENSOR_CORES, *ALSO):
        arithmetic = named(name)
        a, b = arithmetic.a.encode(x), arithmetic.b.encode(y)
        rates[name] = rate(lambda r=arithmetic, a=a, b=b: r.gemm(a, b), m * k * n, args.runs)  # type: ignore[misc]
    hopper = named("hopper_fp8")
    a, b = hopper.a.encode(x[:2, :512]), hopper.b.encode(y[:512, :2])
    rates[SCALAR] = rate(lambda: hopper.definition(a, b), 2048, 1)
    if args.json:
        print(json.dumps(rates))
        return
    table = Table(title=f"{m} × {k} × {n} on one core")
    for column in ("arithmetic", "G MAC/s", "of sgemm", "times scalar Python"):
        table.add_column(column, justify="left" if column == "arithmetic" else "right")
    for name, value in rates.items():
        times = f"{value / rates[SCALAR]:,.0f}"
        table.add_row(name, f"{value:.3g}", f"{value / sgemm:.2%}", times)
    Console().print(table)


if __name__ == "__main__":
    main()
