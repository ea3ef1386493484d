"""The AXPY of the weight updates."""

from __future__ import annotations

import numpy as np
from numba import njit

from quaver.golden.kernels.cast import bits_as, decode_float32, encode

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
def sgd(weights, momenta, gradients, new_weights, new_momenta, factors, draws, hows, words):
    """`quaver.golden.update.FloatSGD` on codes: its three lines of a block at a time, so that what one leaves
    is in the first cache when the next takes it.

    `factors` are decay, momentum and rate; `draws` the random bits of each line, or None; `hows` what
    `encode` takes of each after its arrays, and `words` what `decode_float32` does.
    """
    w, v, g = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    codes = np.empty(_BLOCK, gradients.dtype)
    for start in range(0, len(weights), _BLOCK):
        count, part = min(_BLOCK, len(weights) - start), slice(start, start + _BLOCK)
        w_part, v_part, g_part = w[:count], v[:count], g[:count]
        decode_float32(weights[part], w_part.view(np.uint32), *words)
        decode_float32(momenta[part], v_part.view(np.uint32), *words)
        decode_float32(gradients[part], g_part.view(np.uint32), *words)
        _line(factors[0], w_part, g_part, codes[:count], draws[0], start, hows[0])
        decode_float32(codes[:count], g_part.view(np.uint32), *words)
        _line(factors[1], v_part, g_part, new_momenta[part], draws[1], start, hows[1])
        decode_float32(new_momenta[part], v_part.view(np.uint32), *words)
        _line(-factors[2], v_part, w_part, new_weights[part], draws[2], start, hows[2])


@njit(nogil=True)
def _line(alpha, x, y, codes, random, start, how):
    bits = axpy_to_odd(alpha, x, y).view(np.uint64)
    if random is None:
        encode(bits, codes, None, *how)
    else:
        encode(bits, codes, random[start : start + len(x)], *how)


@njit(cache=True, nogil=True)
def axpy_to_odd(alpha, x, y):
    """y + alpha·x rounded to odd in float64: an inexact sum goes to the neighbour whose last bit is 1.

    The product is exact: its 2 · 24 significant bits at most fit in 53. The odd last bit stands for all
    that is below it, and float64 has the p + R + 2 bits that rounding to p bits with R random ones
    looks at, so that rounding again is rounding once (Boldo and Melquiond 2008, rounding to odd).
    """
    total = np.empty(len(x), np.float64)
    for i in range(len(x)):
        product, addend = alpha * x[i], np.float64(y[i])
        near = product + addend
        # Knuth's TwoSum: the exact sum is near + error. After an infinity or NaN the error is NaN, and no
        # comparison holds.
        other = near - product
        error = (product - (near - other)) + (addend - other)
        bits, lost = bits_as(near, np.int64(0)), bits_as(error, np.int64(0))
        outward = ((bits ^ lost) >> 63) | 1  # −1 where the exact sum's magnitude is less
        to_odd = bits + outward if abs(error) > 0 and bits & 1 == 0 else bits
        total[i] = bits_as(to_odd, 0.0)
    return total
