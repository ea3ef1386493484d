"""The chunked GEMM on integers, one output at a time: right for every pair of formats, and compiled once.

A number is significand · 2**exponent with a signed significand; infinities and NaN are carried beside it as
a float, which is 0.0 for every number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import NDArray

from golden.formats import FloatFormat

if TYPE_CHECKING:
    from golden.arithmetic.chunked_float import ChunkedFloat

Array = NDArray[Any]


def scalar_gemm(arithmetic: ChunkedFloat, a: Array, b: Array, x: Array, y: Array) -> Array:
    """Codes of C from the codes `a` (M, K) and `b` (K, N), and draws `x` (M, n) and `y` (N, n)."""
    acc = arithmetic.accumulator
    infinity = (
        acc.max_code if acc.saturate else acc.nan_code if acc.infinity_code is None else acc.infinity_code
    )
    fmt = (acc.mantissa_bits, acc.quantum_exponent, acc.max_code, infinity, acc.nan_code, acc.sign_code)
    random_bits = arithmetic.random_bits if arithmetic.stochastic else 0
    c = np.zeros((a.shape[0], b.shape[1]), acc.code_dtype)
    table = parts(arithmetic.operand)
    _gemm(a, np.ascontiguousarray(b.T), table, table, parts(acc), fmt, arithmetic.chunk, random_bits, x, y, c)
    return c


def parts(fmt: FloatFormat) -> tuple[Array, Array, Array]:
    """Significand, exponent and special value of every code of `fmt`."""
    codes = np.arange(1 << fmt.width)
    magnitude = codes & (fmt.sign_code - 1)
    exponent = magnitude >> fmt.mantissa_bits
    mantissa = magnitude & ((1 << fmt.mantissa_bits) - 1)
    significand = mantissa + (np.minimum(exponent, 1) << fmt.mantissa_bits)
    special = np.where(magnitude <= fmt.max_code, 0.0, np.nan)
    if fmt.infinity_code is not None:
        special[magnitude == fmt.infinity_code] = np.inf
    negative = codes >= fmt.sign_code
    return (
        np.where(negative, -significand, significand),
        np.maximum(exponent, 1) - 1 + fmt.quantum_exponent,
        np.where(negative, -special, special),
    )


@numba.njit(cache=True, nogil=True)
def _bit_length(n):
    length = 0
    for step in (32, 16, 8, 4, 2, 1):
        if n >> step:
            n >>= step
            length += step
    return length + (n != 0)


@numba.njit(cache=True, nogil=True)
def _rounded_sum(significand, exponent, other, other_exponent, fmt, random_bits, random):
    """The code of significand · 2**exponent + other · 2**other_exponent, significands below 2**29."""
    mantissa_bits, quantum, max_code, infinity, nan, sign = fmt
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
        return np.int64(0)  # the sign of a zero sum is never seen: the next term or the +0 total hides it
    # The larger one's highest bit goes to bit 60. What the smaller one loses below bit 0 sticks in bit 0,
    # which neither rounding looks at otherwise: at most 14 + 24 bits from the top are kept or drawn against.
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
        return np.int64(0)
    kept_exponent = max(_bit_length(total) + unit - (mantissa_bits + 1), quantum)
    dropped = kept_exponent - unit
    if random_bits:
        if dropped <= 0:
            kept = total << -dropped
        else:
            below = dropped - random_bits
            drawn_against = (total >> min(below, 63)) if below >= 0 else total << -below
            kept = (drawn_against + random) >> random_bits
    elif dropped > 62:
        kept = np.int64(0)
    elif dropped <= 0:
        kept = total << -dropped
    else:
        kept = total >> dropped
        rest, half = total & ((np.int64(1) << dropped) - 1), np.int64(1) << (dropped - 1)
        kept += (rest > half) or (rest == half and kept & 1 == 1)
    code = ((kept_exponent - quantum) << mantissa_bits) + kept
    if code > max_code:
        return infinity if infinity == nan else negative | infinity
    return negative | code


@numba.njit(cache=True, nogil=True)
def _add(code, significand, exponent, special, acc, fmt, random_bits, random):
    """The accumulator code after adding a number, or a special value where that is not 0.0."""
    special = special + acc[2][code]
    if special != 0.0:
        _, _, _, infinity, nan, sign = fmt
        if np.isnan(special) or infinity == nan:
            return nan
        return infinity | sign if special < 0 else infinity
    return _rounded_sum(acc[0][code], acc[1][code], significand, exponent, fmt, random_bits, random)


@numba.njit(cache=True, nogil=True)
def _gemm(a, b_columns, a_parts, b_parts, acc, fmt, chunk, random_bits, x, y, c):
    rows, columns = c.shape
    depth = a.shape[1]
    for i in range(rows):
        for j in range(columns):
            total, n = np.int64(0), 0
            for start in range(0, depth, chunk):
                partial = np.int64(0)
                for k in range(start, min(start + chunk, depth)):
                    left, right = a[i, k], b_columns[j, k]
                    significand = a_parts[0][left] * b_parts[0][right]
                    exponent = a_parts[1][left] + b_parts[1][right]
                    special = 0.0
                    if a_parts[2][left] != 0.0 or b_parts[2][right] != 0.0:
                        unit_left = a_parts[2][left] if a_parts[2][left] != 0.0 else np.sign(a_parts[0][left])
                        unit_right = (
                            b_parts[2][right] if b_parts[2][right] != 0.0 else np.sign(b_parts[0][right])
                        )
                        special = unit_left * unit_right  # ∞·0 is NaN here too
                    random = np.int64(x[i, n] ^ y[j, n]) if random_bits else np.int64(0)
                    partial = _add(partial, significand, exponent, special, acc, fmt, random_bits, random)
                    n += 1
                random = np.int64(x[i, n] ^ y[j, n]) if random_bits else np.int64(0)
                total = _add(
                    total, acc[0][partial], acc[1][partial], acc[2][partial], acc, fmt, random_bits, random
                )
                n += 1
            c[i, j] = total
