"""How fast exact sums of small integers are: golden's two kernels, and PyTorch's int8 product.

Where the processor has AVX-512 VNNI, `Integer.gemm` takes its instruction that adds 64 products of an
unsigned and a signed byte to 16 sums of 32 bits (vpdpbusd). Elsewhere it is a product of float32 matrices,
whose sums are exact up to 2**24, in pieces of K; that is measured in both cases. PyTorch multiplies signed
bytes, so that activations have at most 7 bits; odd levels multiply s of 2s + 1, and Σ a is added. All go from
codes to sums, and all are held to the same sums. One thread each, in its processor time, which others on the
machine stretch least; medians, and the ratio to float32 `matmul` of operands that are decoded already.

    python bench/integer_speed.py
    python bench/integer_speed.py --size 32 128 64
    python bench/integer_speed.py --size 2048 25 32 --across       as a convolution's operand lies in memory
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from quaver.golden.arithmetic.integer import Integer
from quaver.golden.arithmetic.named import named
from quaver.golden.kernels import dots

Array = NDArray[Any]
NAMES = ("int2", "int4", "int8")
REFERENCE = "float32 matmul, of the decoded values"
#: Whether the processor has the instruction; `dots.AVAILABLE` is what golden believes.
VNNI = dots.AVAILABLE
#: Seconds that a kernel runs before it is another's turn, if one run is shorter.
TURN = 0.005


def lines(arithmetic: Integer, a: Array, b: Array) -> dict[str, Callable[[], Array]]:
    """What makes the sums of A·B, by name: each gives int64 or its like, (M, N)."""
    x, y = arithmetic.a.decode(a), arithmetic.b.decode(b)

    def golden(by_dots: bool) -> Callable[[], Array]:
        def run() -> Array:
            dots.AVAILABLE = by_dots
            return arithmetic.result.integers(arithmetic.gemm(a, b))

        return run

    found: dict[str, Callable[[], Array]] = {REFERENCE: lambda: x @ y}
    if VNNI:
        found["golden, by vpdpbusd"] = golden(True)
    found["golden, by float32 products"] = golden(False)
    (M, K), N = a.shape, b.shape[1]
    if find_spec("torch") is not None and arithmetic.a.bits < 8 and M > 16 and K % 8 == N % 8 == 0:
        import torch

        torch.set_num_threads(1)
        s = (b.astype(np.int16) - (1 << (arithmetic.b.bits - 1))).astype(np.int8)  # the level is 2s + 1
        left, right = torch.from_numpy(a.view(np.int8)), torch.from_numpy(s)
        row = left.sum(1, dtype=torch.int32)[:, None]
        found["PyTorch's int8 product"] = lambda: (2 * torch._int_mm(left, right) + row).numpy()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=(512, 4096, 512), metavar=("M", "K", "N"))
    parser.add_argument("--across", action="store_true", help="A lies in memory as (K, M)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    M, K, N = args.size
    if min(M, K, N) < 1:
        parser.error(f"--size {M} {K} {N}, but there is nothing to sum up; take numbers from 1 up")
    if (most := min(named(name).chunk for name in NAMES)) < K:
        parser.error(f"--size {M} {K} {N}, but the sums hold {most:,} products of any codes; take K up to it")
    rng, rates = np.random.default_rng(1), {}
    numba.set_num_threads(1)
    with threadpool_limits(1):
        for name in NAMES:
            arithmetic = named(name)
            assert isinstance(arithmetic, Integer)
            a, b = (
                rng.integers(0, 1 << arithmetic.a.bits, size).astype(np.uint8) for size in ((M, K), (K, N))
            )
            if args.across:
                a = np.asfortranarray(a)
            runs = lines(arithmetic, a, b)
            expected = arithmetic.a.integers(a) @ arithmetic.b.integers(b)
            times: dict[str, list[float]] = {what: [] for what in runs}
            repeats = {}
            for what, run in runs.items():
                if what != REFERENCE and not np.array_equal(run(), expected):
                    raise AssertionError(f"{what} differs from the sums of integers for {name}")
                run()
                start = time.thread_time()
                run()
                repeats[what] = 1 + int(TURN / max(time.thread_time() - start, 1e-6))
            for _ in range(args.rounds):
                for what, run in runs.items():
                    start = time.thread_time()
                    for _ in range(repeats[what]):
                        run()
                    times[what].append((time.thread_time() - start) / repeats[what])
            rates[name] = {what: M * K * N / statistics.median(took) / 1e6 for what, took in times.items()}
    if args.json:
        print(json.dumps({"size": args.size, "million_macs_per_second": rates}))
        return
    table = Table(title=f"Exact sums {M}×{K}×{N}, one thread; median of {args.rounds}")
    for header in ("", "", "million MAC/s", "ratio"):
        table.add_column(header, justify="left" if not header else "right")
    for name, found in rates.items():
        for what, rate in found.items():
            table.add_row(name, what, f"{rate:,.0f}", f"{rate / found[REFERENCE]:.2f}×")
        table.add_section()
    Console().print(table)
    if not VNNI:
        Console().print("no AVX-512 VNNI here: its instruction was not measured")


if __name__ == "__main__":
    main()
