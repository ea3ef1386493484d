"""The choice between kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden.formats import Specials
from quaver.golden.kernels.chunked_sums import ChunkedSums
from quaver.golden.random_bits import States
from quaver.golden.rounding import Rounding

Array = NDArray[Any]


def chunked_gemm(sums: ChunkedSums, a: Array, b: Array, states: States | None) -> Array:
    """Codes of C from the codes `a` (M, K) and `b` (K, N), and the states of the random sources if they draw.

    By the vector kernel where it is proved exact for these formats and operands, else by the scalar one.
    """
    from quaver.golden.kernels import scalar, vector  # compile: not before something is computed

    how = vector.plan(sums, vector.largest_sum(sums, a, b))
    if sums.total is not None:
        held = sums.total.quantum_exponent <= sums.accumulator.quantum_exponent
        # A total is rounded from a float64 that is rounded to odd.
        short = sums.total.precision + sums.random_bits + Rounding(sums.rounding).looks_further <= 51
        if how and held and short and Specials.DLFLOAT not in _specials(sums):
            return vector.promoted_gemm(sums, how, a, b, states)
        return scalar.scalar_gemm(sums, a, b, states)
    return vector.vector_gemm(sums, how, a, b, states) if how else scalar.scalar_gemm(sums, a, b, states)


def _specials(sums: ChunkedSums) -> set[Specials]:
    return {fmt.specials for fmt in (sums.accumulator, sums.total) if fmt is not None}


def chunked_gemms(sums: ChunkedSums, a: Array, b: Array, states: Sequence[States] | None) -> Array:
    """The same for a batch of products: (products, M, K) and (products, K, N), and states for each."""
    from quaver.golden.kernels import scalar, vector

    if sums.total is not None:
        each = zip(a, b, [None] * len(a) if states is None else states, strict=True)
        return np.stack([chunked_gemm(sums, x, y, state) for x, y, state in each])
    how = vector.plan(sums, vector.largest_sum(sums, a, b))
    if how:
        return vector.vector_gemms(sums, how, a, b, states)
    each = zip(a, b, [None] * len(a) if states is None else states, strict=True)
    return np.stack([scalar.scalar_gemm(sums, x, y, state) for x, y, state in each])
