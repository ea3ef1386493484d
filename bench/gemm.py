"""How fast the golden GEMM is: million multiply-accumulates a second, beside NumPy, gfloat and APyTypes.

Every line computes the same chunked (1,6,9) sums unless its name says otherwise, and is checked against the
golden bits. The runs go round in turn; medians, and the ratio to NumPy's loop of rounded additions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import apytypes
import gfloat
import numba
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from quaver.golden.arithmetic import ChunkedFloat
from quaver.golden.formats import DLFLOAT, FP8, FP16, FloatFormat

Array = NDArray[Any]
CHUNK = 64
REFERENCE = "NumPy, a loop of rounded additions"
FIRST_CALL = """
import time; start = time.perf_counter()
import numpy as np
from quaver.golden.arithmetic import ChunkedFloat
imported = time.perf_counter()
seed = 1 if "{rounding}" == "stochastic" else None
ChunkedFloat(rounding="{rounding}").gemm(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), seed=seed)
print(imported - start, time.perf_counter() - imported)
"""


def numpy_loop(left: Array, right: Array, c: Array) -> None:
    """C by one rounded addition of a whole matrix at a time, the magic-constant rounding in place."""
    partial, term, shift = np.empty_like(c), np.empty_like(c), np.empty_like(c)

    def rounded_sum(total: Array) -> None:
        np.add(total, term, out=total)
        np.multiply(total, np.float32(1 << 14), out=shift)
        np.subtract(total, shift, out=total)
        np.add(total, shift, out=total)

    c[:] = 0
    for start in range(0, left.shape[1], CHUNK):
        partial[:] = 0
        for k in range(start, min(start + CHUNK, left.shape[1])):
            np.multiply(left[:, k, None], right[k], out=term)
            rounded_sum(partial)
        term[:] = partial
        rounded_sum(c)


def gfloat_loop(left: Array, right: Array, c: Array) -> None:
    """The same with gfloat's rounding."""
    fmt = gfloat.FormatInfo(
        "e6m9",
        16,
        10,
        bias=31,
        is_signed=True,
        domain=gfloat.types.Domain.Extended,
        has_nz=True,
        num_high_nans=511,
        has_subnormals=True,
        is_twos_complement=False,
    )
    total = np.zeros(c.shape)
    for start in range(0, left.shape[1], CHUNK):
        partial = np.zeros(c.shape)
        for k in range(start, min(start + CHUNK, left.shape[1])):
            partial = gfloat.round_ndarray(fmt, partial + left[:, k, None].astype(float) * right[k])
        total = gfloat.round_ndarray(fmt, total + partial)
    c[:] = total


def apytypes_product(a: Array, b: Array, c: Array) -> None:
    """The same with APyTypes: its accumulator context sums a chunk, its addition the chunks."""

    def array(codes: Array, fmt: FloatFormat) -> Any:
        return apytypes.APyFloatArray.from_array(
            fmt.decode(codes), fmt.exponent_bits, fmt.mantissa_bits, fmt.bias
        )

    total = array(np.zeros(c.shape, np.uint16), FP16)
    with apytypes.APyFloatAccumulatorContext(exp_bits=6, man_bits=9, bias=31):
        for start in range(0, a.shape[1], CHUNK):
            total = total + array(a[:, start : start + CHUNK], FP8) @ array(b[start : start + CHUNK], FP8)
    c[:] = total.to_numpy()


def lines(M: int, K: int, N: int, rng: np.random.Generator) -> dict[str, tuple[int, Callable[[], object]]]:
    """Multiply-accumulates and a run, by name. The slow ones get a corner of the same matrices."""
    a, b = FP8.encode(rng.normal(size=(M, K))), FP8.encode(rng.normal(size=(K, N)))
    left, right = FP8.decode(a), FP8.decode(b)
    wide_a, wide_b = FP16.encode(rng.normal(size=(M, K))), FP16.encode(rng.normal(size=(K, N)))
    dl_a, dl_b = DLFLOAT.encode(rng.normal(size=(M, K))), DLFLOAT.encode(rng.normal(size=(K, N)))
    golden = FP16.decode(ChunkedFloat(chunk=CHUNK).gemm(a, b))

    def on(threads: int, run: Callable[[], object]) -> Callable[[], object]:
        def limited() -> None:
            with threadpool_limits(threads):
                numba.set_num_threads(threads)
                run()

        return limited

    def checked(
        function: Callable[[Array, Array, Array], None], x: Array, y: Array, m: int, n: int, k: int
    ) -> tuple[int, Callable[[], object]]:
        m, n, k = min(m, M), min(n, N), min(k, K)
        expected = (
            golden[:m, :n] if k == K else FP16.decode(ChunkedFloat(chunk=CHUNK).gemm(a[:m, :k], b[:k, :n]))
        )
        c = np.empty((m, n), np.float32)

        def run() -> None:
            function(x[:m, :k], y[:k, :n], c)
            if not np.array_equal(c, expected):
                raise AssertionError(f"{function.__name__} differs from the golden GEMM")

        return m * n * k, on(1, run)

    macs, cores = M * K * N, numba.config.NUMBA_NUM_THREADS
    found: dict[str, tuple[int, Callable[[], object]]] = {}
    kinds = {
        "nearest": (ChunkedFloat(chunk=CHUNK), a, b),
        "stochastic": (ChunkedFloat(chunk=CHUNK, rounding="stochastic"), a, b),
        "FP16 operands": (ChunkedFloat(FP16, chunk=CHUNK), wide_a, wide_b),
        "DLFloat": (ChunkedFloat(DLFLOAT, DLFLOAT, chunk=CHUNK), dl_a, dl_b),
    }
    for threads in sorted({1, cores}):
        for name, (arithmetic, x, y) in kinds.items():
            run = on(threads, partial(arithmetic.gemm, x, y, seed=1 if arithmetic.stochastic else None))
            found[f"golden, {name}, {threads} thread{'s' * (threads > 1)}"] = macs, run
        found[f"NumPy float32 matmul (no rounding), {threads} thread{'s' * (threads > 1)}"] = (
            macs,
            on(threads, lambda: left @ right),
        )
    found[REFERENCE] = checked(numpy_loop, left, right, 128, 512, 1024)
    found["gfloat"] = checked(gfloat_loop, left, right, 128, 128, 128)
    found["APyTypes"] = checked(apytypes_product, a, b, 128, 128, 128)
    return found


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def first_call(rounding: str) -> dict[str, float]:
    """Seconds of `import quaver.golden.arithmetic` and of the first gemm: compiling, and from Numba's
    cache."""
    with tempfile.TemporaryDirectory() as cache:
        found = {}
        for state in ("compiled", "cached"):
            command = [sys.executable, "-c", FIRST_CALL.format(rounding=rounding)]
            environment = os.environ | {"NUMBA_CACHE_DIR": cache}
            output = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            ).stdout
            found["import"], found[state] = (float(word) for word in output.split())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, nargs=3, default=(512, 4096, 512), metavar=("M", "K", "N"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()

    runs = lines(*options.size, np.random.default_rng(1))
    for _, run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, (_, run) in runs.items():
            times[name].append(seconds(run))
    rates = {name: macs / statistics.median(times[name]) / 1e6 for name, (macs, _) in runs.items()}
    first = {rounding: first_call(rounding) for rounding in ("nearest", "stochastic")}
    if options.json:
        print(
            json.dumps({"size": options.size, "million_macs_per_second": rates, "first_call_seconds": first})
        )
        return
    M, K, N = options.size
    table = Table(
        title=f"GEMM {M}×{K}×{N}, FP8 operands, (1,6,9) sums, chunk {CHUNK}; median of {options.rounds}"
    )
    for header in ("", "million MAC/s", "ratio"):
        table.add_column(header, justify="right" if header else "left")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}", f"{rate / rates[REFERENCE]:,.2f}×")
    console = Console()
    console.print(table)
    for name, took in first.items():
        console.print(
            f"first {name} GEMM: {took['compiled']:.1f} s compiling, {took['cached']:.2f} s from the cache"
            f" (import {took['import']:.2f} s)"
        )


if __name__ == "__main__":
    main()
