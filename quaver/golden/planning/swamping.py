"""Two measurements of sums in a small accumulator: where a sum stalls, and what the chunk length does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from quaver.golden.arithmetic.chunked_float import NO_CHUNKS, ChunkedFloat
from quaver.golden.formats import FP8, FP16

#: Terms of the stalling sums.
STALL_LENGTHS = tuple(1 << i for i in range(6, 17))
STALL_WAYS = {
    "nearest, no chunks": ChunkedFloat(operand=FP16, chunk=NO_CHUNKS),
    "stochastic, no chunks": ChunkedFloat(operand=FP16, chunk=NO_CHUNKS, rounding="stochastic"),
    "nearest, chunks of 64": ChunkedFloat(operand=FP16, chunk=64),
}
#: Terms of the dot products and lengths of their chunks.
SWEEP_LENGTHS = (4096, 16384, 65536)
SWEEP_CHUNKS = tuple(1 << i for i in range(17))

Measured = dict[str, NDArray[np.float64]]


def stall(seed: int, advance: Callable[[], None] = lambda: None, trials: int = 8) -> Measured:
    """How much of a growing sum FP16 keeps: the sum of n values over the exact sum, for each of `STALL_WAYS`.

    After Wang et al. 2018 (arXiv 1812.08011, figure 3): the values are uniform with mean 1 and standard
    deviation 1, and results are means over `trials` trials. Each array is (len(STALL_LENGTHS),), a ratio for
    each n; `advance` is called after each way.
    """
    rng = np.random.default_rng(seed)
    codes = FP16.encode(1 + np.sqrt(3) * rng.uniform(-1, 1, (trials, STALL_LENGTHS[-1])))
    values = FP16.decode(codes).astype(np.float64)
    one = FP16.encode(np.ones((STALL_LENGTHS[-1], 1)))
    ratios: Measured = {}
    for name, arithmetic in STALL_WAYS.items():
        source = {"seed": seed} if arithmetic.stochastic else {}
        sums = [arithmetic.gemm(codes[:, :n], one[:n], **source)[:, 0] for n in STALL_LENGTHS]
        exact = [values[:, :n].sum(axis=1) for n in STALL_LENGTHS]
        ratios[name] = np.array([np.mean(FP16.decode(s) / e) for s, e in zip(sums, exact, strict=True)])
        advance()
    return ratios


def chunk_sweep(
    seed: int, advance: Callable[[], None] = lambda: None, *, size: int = 32, mean: float = 0.0
) -> dict[int, NDArray[np.float64]]:
    """Relative errors of FP8 dot products that are summed in FP16: length → (len(SWEEP_CHUNKS),).

    The error is the RMS error over the RMS of the exact sums, of `size`² dot products for each length and
    chunk. Both operands are normal with this `mean` and standard deviation 1, rounded to FP8. `advance` is
    called after each length.
    """
    rng = np.random.default_rng(seed)
    errors = {}
    for n in SWEEP_LENGTHS:
        a, b = (FP8.encode(rng.normal(mean, 1, shape)) for shape in ((size, n), (n, size)))
        exact = FP8.decode(a).astype(np.float64) @ FP8.decode(b).astype(np.float64)
        scale = np.sqrt(np.mean(exact**2))
        found = [FP16.decode(ChunkedFloat(chunk=chunk).gemm(a, b)) - exact for chunk in SWEEP_CHUNKS]
        errors[n] = np.array([np.sqrt(np.mean(e**2)) / scale for e in found])
        advance()
    return errors
