"""The chunked GEMM on integers, one output at a time: right for every pair of formats, and compiled once.

A number is significand · 2**exponent with a signed significand. Infinities and NaN are carried beside it as a
float, which for every number is 0.0 with the number's sign: what floats make of zeros is right for both.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from quaver.golden.formats import FloatFormat, Specials
from quaver.golden.kernels.chunked_sums import ChunkedSums
from quaver.golden.kernels.random_bits import moved, one_sum_on
from quaver.golden.random_bits import SOURCES, States
from quaver.golden.rounding import Rounding

Array = NDArray[Any]


def scalar_gemm(sums: ChunkedSums, a: Array, b: Array, states: States | None) -> Array:
    """Codes of C from the codes `a` (M, K) and `b` (K, N), and the states of the random sources if they
    draw."""
    operand, acc, total = sums.operand, sums.accumulator, sums.total or sums.accumulator
    random_bits = sums.random_bits if sums.stochastic else 0
    c = np.zeros((a.shape[0], b.shape[1]), total.code_dtype)
    columns = np.ascontiguousarray(b.T)
    formats = _fields(operand, False), _fields(acc, acc.saturate), _fields(total, total.saturate)
    x, y, z = states or (0, 0, 0)
    drawn = random_bits, (np.uint64(x), np.uint64(y), np.uint64(z)), SOURCES
    variant = sums.rounding is Rounding.STOCHASTIC_B, sums.rounding is Rounding.STOCHASTIC_C
    _gemm(a, columns, *formats, min(sums.chunk, a.shape[1] or 1), *drawn, variant, c)
    return c


def _fields(fmt: FloatFormat, saturate: bool) -> tuple[int, ...]:
    """The format as the functions below take it.

    `infinity` is the code that overflow becomes; `missing` counts the codes that DLFloat lacks where other
    formats have subnormals.
    """
    infinity = fmt.max_code if saturate else fmt.infinity_code or fmt.nan_code
    missing = 1 << fmt.mantissa_bits if fmt.specials is Specials.DLFLOAT else 0
    special = infinity, fmt.nan_code, fmt.sign_code
    return fmt.mantissa_bits, fmt.quantum_exponent, fmt.max_code, *special, missing


@numba.njit(cache=True, nogil=True)
def _bit_length(n):
    length = 0
    for step in (32, 16, 8, 4, 2, 1):
        if n >> step:
            n >>= step
            length += step
    return length + (n != 0)


@numba.njit(cache=True, nogil=True)
def _parts(code, fmt):
    """Significand, exponent and special value of a code."""
    mantissa_bits, quantum, max_code, infinity, nan, sign, missing = fmt
    magnitude = np.int64(code) & (sign - 1)
    gradual = magnitude + missing if magnitude else magnitude
    exponent = gradual >> mantissa_bits
    steps = exponent - min(exponent, 1)  # taken from the exponent's field, they leave the hidden bit
    significand = gradual - (steps << mantissa_bits)
    special = 0.0
    if magnitude > max_code:
        special = np.inf if magnitude == infinity and infinity != nan else np.nan
    if code & sign:
        return -significand, steps + quantum, -special
    return significand, steps + quantum, special


@numba.njit(cache=True, nogil=True)
def _rounded_sum(significand, exponent, other, other_exponent, zero, fmt, random_bits, random, nearest):
    """The code of significand · 2**exponent + other · 2**other_exponent, significands below 2**58.

    `zero` is the code of their sum if it is 0; `nearest`, whether what the random bits are added to is
    rounded and not cut.
    """
    mantissa_bits, quantum, max_code, infinity, nan, sign, missing = fmt
    top = _bit_length(abs(significand)) + exponent
    other_top = _bit_length(abs(other)) + other_exponent
    if significand == 0 or (other != 0 and other_top > top):
        significand, exponent, top, other, other_exponent = (
            other,
            other_exponent,
            other_top,
            significand,
            exponent,
        )
    if significand == 0:
        return zero
    # The larger one's highest bit goes to bit 60. What the smaller one loses below bit 0 sticks in bit 0,
    # which no rounding looks at otherwise: at most 30 + 25 bits from the top are kept or drawn against.
    unit = top - 61
    total = significand << (exponent - unit)
    if other != 0:
        shift = other_exponent - unit
        magnitude = abs(other)
        if shift >= 0:
            magnitude <<= shift
        elif shift > -62:
            magnitude = (magnitude >> -shift) | ((magnitude & ((np.int64(1) << -shift) - 1)) != 0)
        else:
            magnitude = np.int64(1)
        total += magnitude if other > 0 else -magnitude
    negative = sign if total < 0 else np.int64(0)
    total = abs(total)
    if total == 0:
        return zero
    kept_exponent = max(_bit_length(total) + unit - (mantissa_bits + 1), quantum)
    dropped = kept_exponent - unit
    if random_bits:
        if dropped <= 0:
            kept = total << -dropped
        else:
            below = dropped - random_bits
            drawn_against = (total >> min(below, 63)) if below >= 0 else total << -below
            if nearest and 0 < below < 63:
                lost, half = total & ((np.int64(1) << below) - 1), np.int64(1) << (below - 1)
                drawn_against += lost > half or (lost == half and drawn_against & 1 == 1)
            kept = (drawn_against + random) >> random_bits
    elif dropped > 62:
        kept = np.int64(0)
    elif dropped <= 0:
        kept = total << -dropped
    else:
        kept = total >> dropped
        rest, half = total & ((np.int64(1) << dropped) - 1), np.int64(1) << (dropped - 1)
        kept += (rest > half) or (rest == half and (missing > 0 or kept & 1 == 1))
    code = max(((kept_exponent - quantum) << mantissa_bits) + kept - missing, np.int64(0))
    if code > max_code:
        return infinity if infinity == nan else negative | infinity
    return negative | code


@numba.njit(cache=True, nogil=True)
def _product(left, right):
    """The parts of the exact product of two numbers."""
    special = left[2] * right[2]
    if left[2] != 0.0 or right[2] != 0.0:  # ∞·0 is NaN here too
        unit_left = left[2] if left[2] != 0.0 else np.sign(left[0])
        unit_right = right[2] if right[2] != 0.0 else np.sign(right[0])
        special = unit_left * unit_right
    return left[0] * right[0], left[1] + right[1], special


@numba.njit(cache=True, nogil=True)
def _add(code, number, fmt, random_bits, random, nearest):
    """The accumulator code after adding a number."""
    sum_significand, sum_exponent, sum_special = _parts(code, fmt)
    significand, exponent, special = number
    special += sum_special  # of numbers: −0.0 if both are negative
    _, _, _, infinity, nan, sign, _ = fmt
    if special != 0.0:
        if np.isnan(special) or infinity == nan:
            return nan
        return infinity | sign if special < 0 else infinity
    zero = sign if np.signbit(special) else np.int64(0)
    terms = sum_significand, sum_exponent, significand, exponent
    return _rounded_sum(*terms, zero, fmt, random_bits, random, nearest)


@numba.njit(cache=True, nogil=True)
def _gemm(a, b_columns, operand, accumulator, totals, chunk, random_bits, states, sources, variant, c):
    rows, columns = c.shape
    depth = a.shape[1]
    mask = np.uint64((1 << random_bits) - 1)
    # Variant B takes a bit more, which is always 1.
    (one_more, nearest), odd = variant, np.int64(0)
    bits = random_bits
    if one_more:
        bits, odd = random_bits + 1, np.int64(1)
    for i in range(rows):
        first = states
        for j in range(columns):
            total, drawn = np.int64(0), first
            for start in range(0, depth, chunk):
                partial = np.int64(0)
                for k in range(start, min(start + chunk, depth)):
                    number = _product(_parts(a[i, k], operand), _parts(b_columns[j, k], operand))
                    random = (np.int64((drawn[0] ^ drawn[1] ^ drawn[2]) & mask) << odd) | odd
                    partial = _add(partial, number, accumulator, bits, random, nearest)
                    if random_bits:
                        drawn = one_sum_on(drawn, sources)
                random = (np.int64((drawn[0] ^ drawn[1] ^ drawn[2]) & mask) << odd) | odd
                total = _add(total, _parts(partial, accumulator), totals, bits, random, nearest)
                if random_bits:
                    drawn = one_sum_on(drawn, sources)
            c[i, j] = total
            first = moved(first, sources, 0, 1)
        states = moved(states, sources, 1, 0)
