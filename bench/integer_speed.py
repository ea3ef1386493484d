"""How fast exact sums of small integers are: the golden kernel, and int8 dot instructions.

Golden's `Integer.gemm` is a product of float32 matrices, whose sums are exact up to 2**24, in pieces of K. An
x86 processor with AVX-512 VNNI has an instruction that adds 64 products of an unsigned and a signed byte to
16 sums of 32 bits (vpdpbusd). It is measured here by a kernel of forty lines that g++ compiles, and by
PyTorch's int8 product where PyTorch is installed (signed bytes by signed ones: activations of 7 bits). Odd
levels of 8 bits need one bit more than a byte, so that both multiply s of 2s + 1 and add Σ a. Every line is
held to golden's codes. One thread each; medians, and the ratio to float32 `matmul`.

    python bench/integer_speed.py
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from quaver.golden.arithmetic.integer import Integer
from quaver.golden.arithmetic.named import named

Array = NDArray[Any]
REFERENCE = "float32 matmul, of the decoded values"
#: A (M, K) bytes, B in panels of 32 columns, four k of a column side by side; M is a multiple of 8.
KERNEL = r"""
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
extern "C" void dot(const uint8_t *a, const int8_t *b, int32_t *c, long M, long K, long N) {
    for (long j = 0; j < N; j += 32) {
        const int8_t *panel = b + j * K;
        for (long i = 0; i < M; i += 8) {
            __m512i sums[8][2];
            for (auto &row : sums) row[0] = row[1] = _mm512_setzero_si512();
            for (long k = 0; k < K; k += 4) {
                const __m512i low = _mm512_loadu_si512(panel + k * 32);
                const __m512i high = _mm512_loadu_si512(panel + k * 32 + 64);
                for (int r = 0; r < 8; r++) {
                    int32_t four;
                    memcpy(&four, a + (i + r) * K + k, 4);
                    const __m512i all = _mm512_set1_epi32(four);
                    sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], all, low);
                    sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], all, high);
                }
            }
            for (int r = 0; r < 8; r++) {
                _mm512_storeu_si512(c + (i + r) * N + j, sums[r][0]);
                _mm512_storeu_si512(c + (i + r) * N + j + 16, sums[r][1]);
            }
        }
    }
}
"""


def dot_kernel(folder: Path) -> Any:
    """The compiled kernel; None, and why: no compiler, or no such instruction here."""
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or "avx512_vnni" not in flags.read_text() or shutil.which("g++") is None:
        return None
    (folder / "dot.cpp").write_text(KERNEL)
    subprocess.run(
        ["g++", "-O3", "-mavx512f", "-mavx512vnni", "-shared", "-fPIC", "dot.cpp", "-o", "dot.so"],
        cwd=folder,
        check=True,
    )
    function = ctypes.CDLL(str(folder / "dot.so")).dot
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long] * 3
    return function


def lines(name: str, a: Array, b: Array, dot: Any) -> dict[str, Callable[[], Array]]:
    """What makes the sums of A·B, by name: each gives int64 or its like, (M, N)."""
    arithmetic = named(name)
    assert isinstance(arithmetic, Integer)
    x, y = arithmetic.a.decode(a), arithmetic.b.decode(b)
    (M, K), N = a.shape, b.shape[1]
    found: dict[str, Callable[[], Array]] = {
        REFERENCE: lambda: x @ y,
        f"golden, {name}": lambda: arithmetic.result.integers(arithmetic.gemm(a, b)),
    }
    s = b.astype(np.int16) - (1 << (arithmetic.b.bits - 1))  # the level is 2s + 1
    signed = s.astype(np.int8)
    if dot is not None:

        def by_dots() -> Array:
            panels = np.ascontiguousarray(signed.reshape(K // 4, 4, N // 32, 32).transpose(2, 0, 3, 1))
            c = np.empty((M, N), np.int32)
            dot(a.ctypes.data, panels.ctypes.data, c.ctypes.data, M, K, N)
            c <<= 1
            c += a.sum(axis=1, dtype=np.int32)[:, None]
            return c

        found["vpdpbusd, 40 lines of C++, codes to sums"] = by_dots
    if find_spec("torch") is not None and arithmetic.a.bits < 8:
        import torch

        torch.set_num_threads(1)
        left, right = torch.from_numpy(a.view(np.int8)), torch.from_numpy(signed)
        row = left.sum(1, dtype=torch.int32)[:, None]
        found["PyTorch's int8 product"] = lambda: (2 * torch._int_mm(left, right) + row).numpy()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=(512, 4096, 512), metavar=("M", "K", "N"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    M, K, N = args.size
    if M % 8 or K % 4 or N % 32 or min(M, K, N) < 1:
        parser.error(f"--size {M} {K} {N}, but M is a multiple of 8, K of 4 and N of 32")
    rng, rates = np.random.default_rng(1), {}
    numba.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        dot = dot_kernel(Path(folder))
        for name in ("int2", "int4", "int8"):
            bits = int(name[3:])
            a, b = (rng.integers(0, 1 << bits, size).astype(np.uint8) for size in ((M, K), (K, N)))
            runs = lines(name, a, b, dot)
            expected = named(name).result.integers(named(name).gemm(a, b))  # type: ignore[attr-defined]
            for what, run in runs.items():
                if what != REFERENCE and not np.array_equal(run(), expected):
                    raise AssertionError(f"{what} differs from golden for {name}")
            times: dict[str, list[float]] = {what: [] for what in runs}
            for _ in range(args.rounds):
                for what, run in runs.items():
                    start = time.perf_counter()
                    run()
                    times[what].append(time.perf_counter() - start)
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
    if dot is None:
        Console().print("no AVX-512 VNNI here, or no g++: int8 dot instructions were not measured")


if __name__ == "__main__":
    main()
