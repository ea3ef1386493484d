"""The chunked GEMM on float32 or float64 vectors: fast, for the pairs of formats where that is proved exact.

`plan` holds the proofs: which float is wide enough, and which clauses of the kernel a pair of formats needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from quaver.golden.formats import FloatFormat, Specials
from quaver.golden.kernels.axpy import axpy_to_odd
from quaver.golden.kernels.chunked_sums import ChunkedSums
from quaver.golden.kernels.random_bits import advanced
from quaver.golden.kernels.threads import each
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
    checked = not largest_sum <= sums.accumulator.max_value
    return _plan(sums, None if checked else math.frexp(largest_sum)[1], directed)


@lru_cache(maxsize=1024)
def _plan(sums: ChunkedSums, exponent: int | None, directed: bool) -> KernelPlan | None:
    """`plan` for sums below 2**exponent, none of which overflows; None: they may do anything."""
    operand, acc = sums.operand, sums.accumulator
    dlfloat, ties_away = acc.specials is Specials.DLFLOAT, acc.ties_away and not sums.stochastic
    product_bits, product_quantum = 2 * operand.precision, 2 * operand.quantum_exponent
    checked = exponent is None
    top = max(acc.max_exponent, 2 * operand.max_exponent + 1) + 2 if exponent is None else exponent
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
    operand = sums.operand
    below_sign = operand.code_dtype(operand.sign_code - 1)
    largest = [int(_largest_masked(np.ravel(codes, "K"), below_sign)) for codes in (a, b)]
    if max(largest) > operand.max_code:
        return math.inf
    left, right = (float(_table(operand, np.dtype(np.float64))[code]) for code in largest)
    quantum, growth = _growth(sums, a.shape[-1])
    return (left * right + quantum) * growth


@lru_cache(maxsize=1024)
def _growth(sums: ChunkedSums, products: int) -> tuple[float, float]:
    """What a product may gain where it is subnormal, and how many times the largest product a sum of so many
    can be: |sum + term| grows by at most one rounding a step, a subnormal by at most the quantum."""
    acc, folds = sums.accumulator, -(-products // sums.chunk)
    of_chunk = min(sums.chunk, products)
    rounding = math.log1p(2.0 ** -(acc.mantissa_bits if sums.stochastic else acc.precision))
    exponent = rounding * (of_chunk + folds)
    growth = math.exp(exponent) if exponent < 700 else math.inf
    return 2.0**acc.quantum_exponent, of_chunk * folds * growth


@numba.njit(cache=True, nogil=True)
def _largest_masked(codes, mask):
    kind = codes.dtype.type
    largest = kind(0)
    for i in range(len(codes)):
        largest = max(largest, kind(codes[i] & mask))
    return largest


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
    width = TILE_VECTORS * VECTOR_BYTES // np.dtype(how.value).itemsize
    (products, M, K), N = a.shape, b.shape[2]

    def padded(rows: int, columns: int) -> tuple[int, int]:
        """The shape in whole tiles."""
        return -(-rows // TILE_ROWS) * TILE_ROWS, -(-columns // width) * width

    shape, turned_shape = padded(M, N), padded(N, M)
    # As they lie in memory: (rows, K) and (columns, K), or `across`.
    (left, left_across), (right, right_across) = _as_it_lies(a), _as_it_lies(b.transpose(0, 2, 1))
    # C' = B'·A' is the same sums, but diagonals' draws have strides then: smaller by an eighth is worth it.
    turned = 9 * math.prod(turned_shape) < 8 * math.prod(shape)
    if turned:
        shape, left, right = turned_shape, right, left
        left_across, right_across = right_across, left_across
    totals = np.zeros((products, *shape), how.value)
    chunk = min(sums.chunk, K)
    long = chunk > (DEPTH if states is None else DRAWN_DEPTH)
    partials = np.empty(totals.shape, how.value) if long else totals
    table, shift, clauses = _constants(sums, how, turned)
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
    across = left_across, right_across
    inputs = (left, right, across, table, random, firsts, shift, chunk, partials, totals, clauses)
    whole = (0, products), (0, shape[0] // TILE_ROWS), (0, shape[1] // width)
    threads = numba.get_num_threads() if a.size * N > ONE_THREAD_MACS else 1
    # Threads share the products, or the rows or columns of each.
    ends = [end for _, end in whole]
    shared = 0 if products >= threads else ends.index(max(ends))
    parts = [(*whole[:shared], span, *whole[shared + 1 :]) for span in spans(ends[shared], threads)]
    each(vector_kernel, [(*inputs, *part) for part in parts], threads)
    return (totals.transpose(0, 2, 1) if turned else totals)[:, :M, :N]


def _as_it_lies(codes: Array) -> tuple[Array, bool]:
    """Codes of a batch (products, rows, columns) as a C-contiguous array, and whether its last two axes are
    exchanged: what lies so in memory is not copied."""
    other_way = codes.transpose(0, 2, 1)
    if other_way.flags.c_contiguous:
        return other_way, True
    return np.ascontiguousarray(codes), False


@lru_cache(maxsize=1024)
def _constants(sums: ChunkedSums, how: KernelPlan, turned: bool) -> tuple[Array, Any, tuple[Any, ...]]:
    """What the kernel takes of the formats: the operands' table, how far draws are shifted, and its
    clauses."""
    acc, value, drawn = sums.accumulator, how.value, sums.stochastic
    dropped = np.finfo(value).nmant - acc.mantissa_bits
    word = np.uint64 if value is np.float64 else np.uint32
    beyond = acc.max_value if acc.saturate else math.inf if acc.infinity_code is not None else math.nan
    clauses = (
        value(2.0**dropped) if dropped else None,
        True if drawn else None,
        True if turned and drawn else None,
        True if how.corrected else None,
        value(2.0**acc.min_exponent) if how.subnormal else None,
        (value(acc.max_value), value(beyond)) if how.checked else None,
        word(8 * word(0).itemsize - 1) if how.directed else None,
        True if how.ties_away else None,
        value(2.0**acc.min_exponent) if how.gap else None,
        True if how.own else None,
    )
    return _table(sums.operand, np.dtype(value)), word(dropped - sums.random_bits if drawn else 0), clauses


@cache
def _table(operand: FloatFormat, dtype: np.dtype) -> Array:
    """What each code is worth."""
    return operand.decode(np.arange(1 << operand.width)).astype(dtype)


def spans(count: int, parts: int) -> list[tuple[int, int]]:
    """0 … count in at most `parts` contiguous, nearly equal spans."""
    edges = sorted({count * part // parts for part in range(parts + 1)})
    return list(pairwise(edges))
