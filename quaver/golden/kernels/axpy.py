"""The AXPY of the weight updates."""

from __future__ import annotations

import numpy as np
from numba import njit

from quaver.golden.kernels.cast import encode

_BLOCK = 1 << 11  # elements: their sums stay in the first cache


@njit(cache=True, nogil=True)
def rounded_axpy(alpha, x, y, codes, random, magic, random_bits, fields):
    """The codes of y + alpha·x, rounded once; from `random` on as `encode` takes them."""
    for start in range(0, len(x), _BLOCK):
        part = slice(start, start + _BLOCK)
        bits = axpy_to_odd(alpha, x[part], y[part]).view(np.uint64)
        if random is None:
            encode(bits, codes[part], random, magic, random_bits, fields)
        else:
            encode(bits, codes[part], random[part], magic, random_bits, fields)


@njit(cache=True, nogil=True)
def axpy_to_odd(alpha, x, y):
    """y + alpha·x rounded to odd in float64: an inexact sum goes to the neighbour whose last bit is 1.

    The product is exact: its 2 · 24 significant bits at most fit in 53. The odd last bit stands for all
    that is below it, and float64 has the p + R + 2 bits that rounding to p bits with R random ones
    looks at, so that rounding again is rounding once (Boldo and Melquiond 2008, rounding to odd).
    """
    total = np.empty(len(x), np.float64)
    bits = total.view(np.int64)
    for i in range(len(x)):
        product, addend = alpha * x[i], np.float64(y[i])
        total[i] = product + addend
        # Knuth's TwoSum: the exact sum is total + error. After an infinity or NaN the error is NaN, and no
        # comparison holds.
        other = total[i] - product
        error = (product - (total[i] - other)) + (addend - other)
        outward = (error > 0) == (total[i] > 0)
        if (error > 0 or error < 0) and bits[i] & 1 == 0:
            bits[i] += 1 if outward else -1
    return total
