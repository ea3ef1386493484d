"""The chunked GEMM on float32 or float64 vectors: fast, for the pairs of formats where that is proved exact.

`plan` holds the proofs: which float is wide enough, and which clauses of the kernel a pair of formats needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from quaver.golden.formats import FloatFormat, Specials
from quaver.golden.kernels.axpy import axpy_to_odd
from quaver.golden.kernels.chunked_sums import ChunkedSums
from quaver.golden.kernels.random_bits import advanced
from quaver.golden.kernels.vector_kernel import (
    AVX512,
    DEPTH,
    DRAWN_DEPTH,
    TILE_ROWS,
    TILE_VECTORS,
    VECTOR_BYTES,
    vector_kernel,
)
from quaver.golden.random_bits import SOURCES, States, first_draws
from quaver.golden.rounding import Rounding

Array = NDArray[Any]

#: Multiply-accumulates below which a second thread costs more than it brings (about 2 ms).
ONE_THREAD_MACS = 40_000_000


@dataclass(frozen=True)
class KernelPlan:
    """How the vector kernel computes a GEMM: its float, and the clauses that formats and data need.

    Attributes
    ----------
    value
        The float that sums are computed in: float32 or float64.
    corrected
        To nearest, whether what the float addition lost is recovered before rounding.
    subnormal
        Whether numbers below the accumulator's smallest normal one are rounded at its quantum.
    checked
        Whether every sum is tested for overflow, infinity and NaN.
    directed
        Whether sums come from machine instructions that add with a rounding of their own (AVX-512).
    ties_away
        To nearest, whether half a step is added to the magnitude and what lies below a step is cut off.
    gap
        Whether magnitudes of at most the accumulator's smallest power of two become 0.
    own
        Where random bits are added, whether to sums that are rounded as the float's addition rounds them.
    """

    value: type[np.floating]
    corrected: bool
    subnormal: bool
    checked: bool
    directed: bool
    ties_away: bool = False
    gap: bool = False
    own: bool = False


def plan(sums: ChunkedSums, largest_sum: float, directed: bool = AVX512) -> KernelPlan | None:
    """The cheapest plan that is exact for sums of magnitude up to `largest_sum` (inf: unknown), or None.

    Let p be the accumulator's precision, w the float's (24 or 53).
    A sum is one of a p-bit number and an exact product.

    - Exact products: 2 · the operand's precision ≤ w. Every sum is a multiple of the product's quantum, and
      that times 2**(p − w) is still a normal float, so nothing is lost below.
    - Nearest: the kernel's rounding needs w ≥ 2p + 2. The float addition has rounded once already: harmless
      if the product, too, has at most p bits (Figueroa 1995: then no inexact sum rounds to a tie). Otherwise
      the sum is rounded to odd in its w ≥ p + 2 bits, which no later rounding can tell from the exact sum.
    - An accumulator as precise as the float, FP32 in float32, if no sum is subnormal: its rounding to nearest
      is the float's own. If it has the float's largest value too, so is its overflow to infinity.
    - Stochastic: the sum is truncated to w ≥ p + random_bits bits. Truncating twice is truncating once.
      Variant B looks at one bit more. Variant C rounds to p + random_bits bits, to nearest even: the float's
      own addition if w is just that, and no sum is subnormal.
    - Subnormal sums: if the product's quantum is a multiple of the accumulator's, then no sum lies between
      two subnormals, and rounding to p bits leaves every sum in their range as it is.
    - Ties away from zero (DLFloat): the sum is truncated to w ≥ p + 1 bits. The last of them alone says
      whether at least half a step was cut off.
    - The gap around zero (DLFloat): a magnitude that is rounded to p bits and then not above 2**min_exponent
      is 0. What was below that power rounds to it at most, however many bits it keeps there. No check if the
      product's quantum is above it: then so is every sum that is not 0.
    - Overflow: no check if no sum can get there. With one, whatever a sum can be still fits the float.
    """
    operand, acc = sums.operand, sums.accumulator
    dlfloat, ties_away = acc.specials is Specials.DLFLOAT, acc.ties_away and not sums.stochastic
    product_bits, product_quantum = 2 * operand.precision, 2 * operand.quantum_exponent
    checked = not largest_sum <= acc.max_value
    top = max(acc.max_exponent, 2 * operand.max_exponent + 1) + 2 if checked else math.frexp(largest_sum)[1]
    for value, precision, min_exponent, max_exponent in (
        (np.float32, 24, -126, 127),
        (np.float64, 53, -1022, 1023),
    ):
        dropped = precision - acc.precision
        # Is the accumulator's rounding the float's own?
        own = dropped == 0 and not sums.stochastic and product_quantum >= acc.quantum_exponent and not dlfloat
        alike = own and acc.max_value == np.finfo(value).max  # then so does its overflow
        reach = 2 * operand.max_exponent + 2 if alike else top + dropped
        enough = 1 if ties_away else 0 if own else acc.precision + 2
        nearest = sums.rounding is Rounding.STOCHASTIC_C
        below = product_quantum < acc.quantum_exponent and not dlfloat
        if sums.stochastic:
            enough = sums.random_bits + (sums.rounding is Rounding.STOCHASTIC_B)
            if nearest and (dropped > enough or below):
                continue
        in_range = product_quantum - dropped >= min_exponent and reach < max_exponent
        if product_bits > precision or dropped < enough or not in_range:
            continue
        wide, cut = product_bits > acc.precision, sums.stochastic or ties_away
        return KernelPlan(
            value,
            corrected=wide and not cut,
            subnormal=below,
            checked=checked and not (alike and not acc.saturate),
            directed=directed and (wide or cut) and not nearest,
            ties_away=ties_away,
            gap=dlfloat and product_quantum <= acc.min_exponent,
            own=nearest,
        )
    return None


def largest_sum(sums: ChunkedSums, a: Array, b: Array) -> float:
    """A bound on every partial sum and total of this GEMM; inf if an operand is not finite."""
    operand, acc = sums.operand, sums.accumulator
    largest = [int((codes & (operand.sign_code - 1)).max()) for codes in (a, b)]
    if max(largest) > operand.max_code:
        return math.inf
    left, right = operand.decode(largest).astype(np.float64)
    growth = math.log1p(2.0 ** -(acc.mantissa_bits if sums.stochastic else acc.precision))
    products = min(sums.chunk, a.shape[-1])
    folds = -(-a.shape[-1] // sums.chunk)
    # |sum + term| grows by at most one rounding a step.
    exponent = growth * (products + folds)
    with np.errstate(over="ignore"):  # infinity is a bound too
        term = left * right + 2.0**acc.quantum_exponent  # a subnormal grows by at most the quantum
        return float(term * products * folds * np.exp(exponent))


def vector_gemm(sums: ChunkedSums, how: KernelPlan, a: Array, b: Array, states: States | None) -> Array:
    """Codes of C from the codes `a` (M, K) and `b` (K, N), and the states of the random sources if they
    draw. Totals are in the accumulator's format."""
    return vector_gemms(sums, how, a[None], b[None], None if states is None else [states])[0]


def vector_gemms(
    sums: ChunkedSums, how: KernelPlan, a: Array, b: Array, states: Sequence[States] | None
) -> Array:
    """The same for a batch of products, (products, M, K) and (products, K, N), in one call of the kernel for
    each thread."""
    return sums.accumulator.encode(_values(sums, how, a, b, states))


def promoted_gemm(sums: ChunkedSums, how: KernelPlan, a: Array, b: Array, states: States | None) -> Array:
    """The codes of C, with totals in a format of their own that holds the accumulator's smallest value: there
    no sum of two chunks is −0, so that the sign of a chunk's zero does not matter."""
    if sums.total is None:
        raise ValueError("there is no format of totals")
    total, drawn = np.zeros((len(a), b.shape[1])), {}
    for first in range(0, len(b), sums.chunk):
        part = slice(first, first + sums.chunk)
        firsts = None if states is None else [states]
        partial = _values(sums, how, np.ascontiguousarray(a[None, :, part]), b[None, part], firsts)[0]
        if states is not None:
            states = _sums_on(states, min(sums.chunk, len(b) - first))
            random = first_draws(states, *total.shape, sums.random_bits).reshape(-1)
            drawn = {"random": random, "random_bits": sums.random_bits}
            states = _sums_on(states, 1)
        # To odd in float64, then as the total is: rounded once.
        summed = axpy_to_odd(1.0, np.ascontiguousarray(partial).reshape(-1), total.reshape(-1))
        total = sums.total.round(summed, sums.rounding, **drawn).astype(np.float64).reshape(total.shape)
    return sums.total.encode(total)


def _sums_on(states: States, sums: int) -> States:
    x, y, z = (int(advanced(np.uint64(s), of, sums)) for s, of in zip(states, SOURCES, strict=True))
    return x, y, z


def _values(sums: ChunkedSums, how: KernelPlan, a: Array, b: Array, states: Sequence[States] | None) -> Array:
    """The values of C, as `vector_gemms` has its codes."""
    operand, acc = sums.operand, sums.accumulator
    width = TILE_VECTORS * VECTOR_BYTES // np.dtype(how.value).itemsize
    (products, M, K), N = a.shape, b.shape[2]

    def padded(rows: int, columns: int) -> tuple[int, int]:
        """The shape in whole tiles."""
        return -(-rows // TILE_ROWS) * TILE_ROWS, -(-columns // width) * width

    shape, turned_shape = padded(M, N), padded(N, M)
    left, right = np.ascontiguousarray(a), np.ascontiguousarray(b)
    # C' = B'·A' is the same sums, but codes are packed against their order in memory, and diagonals' draws
    # have strides: smaller by an eighth is worth it.
    turned = 9 * math.prod(turned_shape) < 8 * math.prod(shape)
    if turned:
        shape, left, right = turned_shape, right, left
    totals = np.zeros((products, *shape), how.value)
    chunk = min(sums.chunk, K)
    long = chunk > (DEPTH if states is None else DRAWN_DEPTH)
    partials = np.empty(totals.shape, how.value) if long else totals
    dropped = np.finfo(how.value).nmant - acc.mantissa_bits
    shift = np.dtype(f"u{totals.itemsize}").type(0 if states is None else dropped - sums.random_bits)
    random, firsts = None, np.zeros((products, 3), np.uint64)
    if states is not None:
        firsts[:] = states
        odd = sums.rounding is Rounding.STOCHASTIC_B
        below = shift.dtype.type(odd << max(int(shift) - 1, 0))
        random = SOURCES, sums.random_bits, below
        if turned:
            rows_source, columns_source, diagonals = (source.transposed for source in SOURCES)
            random = (columns_source, rows_source, diagonals), sums.random_bits, below
            firsts = np.ascontiguousarray(firsts[:, [1, 0, 2]])
    table = _table(operand, totals.dtype)
    beyond = acc.max_value if acc.saturate else math.inf if acc.infinity_code is not None else math.nan
    clauses = (
        how.value(2.0**dropped) if dropped else None,
        None if states is None else True,
        True if turned and states is not None else None,
        True if how.corrected else None,
        how.value(2.0**acc.min_exponent) if how.subnormal else None,
        (how.value(acc.max_value), how.value(beyond)) if how.checked else None,
        True if how.directed else None,
        True if how.ties_away else None,
        how.value(2.0**acc.min_exponent) if how.gap else None,
        True if how.own else None,
    )
    inputs = (left, right, turned, table, random, firsts, shift, chunk, partials, totals, clauses)
    whole = (0, products), (0, shape[0] // TILE_ROWS), (0, shape[1] // width)
    threads = numba.get_num_threads() if a.size * N > ONE_THREAD_MACS else 1
    # Threads share the products, or the rows or columns of each.
    ends = [end for _, end in whole]
    shared = 0 if products >= threads else ends.index(max(ends))
    parts = [(*whole[:shared], span, *whole[shared + 1 :]) for span in _spans(ends[shared], threads)]
    _each(vector_kernel, [(*inputs, *part) for part in parts], threads)
    return (totals.transpose(0, 2, 1) if turned else totals)[:, :M, :N]


@cache
def _table(operand: FloatFormat, dtype: np.dtype) -> Array:
    """What each code is worth."""
    return operand.decode(np.arange(1 << operand.width)).astype(dtype)


def _each(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], threads: int) -> None:
    """function(*job) for every job. The kernels leave the interpreter's lock, so threads do run at once."""
    if threads == 1:
        for job in jobs:
            function(*job)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda job: function(*job), jobs))


def _spans(count: int, parts: int) -> list[tuple[int, int]]:
    """0 … count in at most `parts` contiguous, nearly equal spans."""
    edges = sorted({count * part // parts for part in range(parts + 1)})
    return list(pairwise(edges))
