"""The loops of `FloatFormat`: floats to codes in the three roundings, and codes to values.

An encoding loop takes its input as `bits`, unsigned words of the float's width, so that it vectorises;
`codes` is as long. The format comes in plain numbers:

- stored: mantissa bits of the input (23 or 52);
- width, kept: bits of a code, and of its mantissa;
- first: the exponent of the format's smallest normal value, as an exponent field of the input;
- missing: what the codes of numbers lie below those of a format with subnormals (DLFloat), else 0;
- largest: the code that no magnitude exceeds;
- signed: the last code that takes a sign (above it is only the OCP-fn NaN that overflow becomes);
- nan: the code of NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import get_num_threads, njit
from numba.extending import intrinsic

from quaver.golden.kernels.shifts import shift_left, shift_right
from quaver.golden.kernels.threads import each

_BLOCK = 1 << 18  # elements: below it a second thread costs more than it brings


def in_blocks(kernel: Callable[..., None], arrays: tuple[Any, ...], *scalars: Any) -> None:
    """`kernel(*arrays, *scalars)`, with long arrays cut into blocks for as many threads as Numba may use."""
    size = len(arrays[0])
    if size <= _BLOCK or (count := get_num_threads()) == 1:
        kernel(*arrays, *scalars)
        return
    starts = range(0, size, _BLOCK)
    each(
        kernel,
        [(*(None if a is None else a[i : i + _BLOCK] for a in arrays), *scalars) for i in starts],
        count,
    )


def _bitcast(context, value, like):
    def generate(context, builder, _, args):
        return builder.bitcast(args[0], context.get_value_type(like))

    return like(value, like), generate


bits_as: Any = intrinsic(_bitcast)


@njit(cache=True, nogil=True)
def look_up(codes, values, table):
    for i in range(len(codes)):
        values[i] = table[codes[i]]


@njit(cache=True, nogil=True)
def decode(codes, values, sign, kept, quantum, largest, infinity):
    """The values of codes: `sign`, `largest` and `infinity` are codes, the smallest subnormal 2**quantum."""
    for i in range(len(codes)):
        magnitude = codes[i] & (sign - 1)
        exponent = magnitude >> kept
        steps = exponent - min(exponent, 1)  # taken from the exponent's field, they leave the hidden bit
        power = bits_as(np.int64((steps + quantum + 1023) << 52), 1.0)
        value = np.int32(magnitude - (steps << kept)) * power
        if magnitude > largest:
            value = np.inf if magnitude == infinity else np.nan
        values[i] = -value if codes[i] & sign else value


@njit(cache=True, nogil=True)
def decode_float32(codes, values, width, kept, rebase, quantum, largest, infinity):
    """The same in vectors, for formats whose normal values are float32's normal ones.

    `values` are the floats' words, `rebase` is what a normal number's exponent field grows by, in its place,
    and `quantum` the smallest subnormal.
    """
    word = np.uint32
    sign, hidden = word(1 << (width - 1)), word(1 << kept)
    below_sign, left, to_sign = word(sign - word(1)), word(23 - kept), word(32 - width)
    rebase, largest, infinity = word(rebase), word(largest), word(infinity)
    infinite, nan = word(0x7F800000), word(0x7FC00000)
    for i in range(len(codes)):
        code = word(codes[i])
        magnitude = word(code & below_sign)
        bits = word(shift_left(magnitude, left) + rebase)
        if magnitude < hidden:
            bits = bits_as(np.float32(np.int32(magnitude)) * quantum, word(0))
        if magnitude > largest:
            bits = infinite if magnitude == infinity else nan
        values[i] = bits | shift_left(word(code & sign), to_sign)


@njit(nogil=True)
def _input(word, size, stored):
    """Three things about a float's word: the number of its top bit, the mask of the bits below, and the word
    of infinity."""
    below_sign = word(shift_left(word(1), word(size - 1)) - word(1))
    return word(size - 1), below_sign, word(below_sign - word(shift_left(word(1), word(stored)) - word(1)))


@njit(nogil=True)
def _sign_and_nan(word, bits, magnitude, infinity, code, to_sign, largest, signed, nan):
    code = min(code, largest)
    if magnitude > infinity or code > signed:
        return nan
    return word(code | shift_right(word(bits ^ magnitude), to_sign))


@njit(cache=True, nogil=True)
def encode(bits, codes, random, magic, random_bits, fields):
    """To nearest even with a `magic`; else up by `random_bits` bits, or by one bit 1 where `random` is None;
    without any, toward zero.

    `fields` are (stored, width, kept, first, missing, infinite, largest, signed, nan). `infinite` is the code
    of infinity, and of overflow as well, which toward zero becomes `largest` instead.
    """
    stored, width, kept, first, missing, infinite, largest, signed, nan = fields
    if magic is not None:
        nearest(bits, codes, magic, stored, width, kept, first, infinite, signed, nan)
    elif random_bits:
        shape = stored, width, kept, first, missing
        if bits.itemsize == 8 and random_bits <= stored - kept and first > random_bits + kept:
            stochastic_float64(bits, codes, random, random_bits, *shape, infinite, signed, nan)
        else:
            stochastic(bits, codes, random, random_bits, *shape, infinite, signed, nan)
    else:
        toward_zero(bits, codes, infinite, stored, width, kept, first, missing, largest, signed, nan)


@njit(nogil=True)
def nearest(bits, codes, magic, stored, width, kept, first, largest, signed, nan):
    """To nearest even. `magic` is the float whose last bit is worth the format's smallest subnormal."""
    word, one = bits.dtype.type, bits.dtype.type(1)
    top, below_sign, infinity = _input(word, 8 * bits.itemsize, stored)
    dropped, to_sign = word(stored - kept), word(top + one - word(width))
    normal, rebase = shift_left(word(first), word(stored)), shift_left(word(first - 1), word(stored))
    almost_half = word(shift_left(one, word(dropped - one)) - one)
    magic_bits = bits_as(magic, one)
    largest, signed, nan = word(largest), word(signed), word(nan)
    for i in range(len(bits)):
        magnitude = word(bits[i] & below_sign)
        odd = word(shift_right(magnitude, dropped) & one)
        code = shift_right(word(word(word(magnitude - rebase) + almost_half) + odd), dropped)
        if magnitude < normal:  # the floating-point addition rounds, and leaves the code in the last bits
            code = word(bits_as(bits_as(magnitude, magic) + magic, one) - magic_bits)
        codes[i] = _sign_and_nan(word, bits[i], magnitude, infinity, code, to_sign, largest, signed, nan)


@njit(nogil=True)
def _cut(word, magnitude, stored, kept, first, dropped, top, grown, random, random_bits):
    """The code of a magnitude after ``random`` was added `random_bits` below its last kept bit."""
    one = word(1)
    field = shift_right(magnitude, stored)
    hidden = shift_left(word(min(field, one)), stored)
    significand = word(word(magnitude - shift_left(field, stored)) | hidden)
    exponent = word(max(field, first))
    places = word(min(word(dropped + word(exponent - word(max(field, one)))), top))
    rounded = shift_right(word(shift_right(shift_left(significand, grown), places) + random), random_bits)
    return word(shift_left(word(exponent - first), kept) + rounded)


@njit(nogil=True)
def toward_zero(bits, codes, infinite, stored, width, kept, first, missing, largest, signed, nan):
    """Toward zero. `infinite` is the code that infinity becomes: here it may lie above `largest`."""
    word, one = bits.dtype.type, bits.dtype.type(1)
    top, below_sign, infinity = _input(word, 8 * bits.itemsize, stored)
    dropped, to_sign = word(stored - kept), word(top + one - word(width))
    stored, kept, first, none, missing = word(stored), word(kept), word(first), word(0), word(missing)
    largest, infinite, signed, nan = word(largest), word(infinite), word(signed), word(nan)
    for i in range(len(bits)):
        magnitude = word(bits[i] & below_sign)
        code = _cut(word, magnitude, stored, kept, first, dropped, top, none, none, none)
        code = word(max(code, missing) - missing)
        limit = infinite if magnitude == infinity else largest
        codes[i] = _sign_and_nan(word, bits[i], magnitude, infinity, code, to_sign, limit, signed, nan)


@njit(nogil=True)
def stochastic(bits, codes, random, random_bits, stored, width, kept, first, missing, largest, signed, nan):
    """Up by explicit bits: `random[i]` holds `random_bits` of them for input i."""
    word, one = bits.dtype.type, bits.dtype.type(1)
    top, below_sign, infinity = _input(word, 8 * bits.itemsize, stored)
    dropped, to_sign = stored - kept, word(top + one - word(width))
    grown = word(max(random_bits - dropped, 0))  # zeros below an input too short for all the random bits
    dropped, random_bits = word(max(dropped - random_bits, 0)), word(random_bits)
    stored, kept, first, missing = word(stored), word(kept), word(first), word(missing)
    largest, signed, nan = word(largest), word(signed), word(nan)
    drawn = one
    for i in range(len(bits)):
        magnitude = word(bits[i] & below_sign)
        if random is not None:
            drawn = word(random[i])
        code = _cut(word, magnitude, stored, kept, first, dropped, top, grown, drawn, random_bits)
        code = word(max(code, missing) - missing)
        codes[i] = _sign_and_nan(word, bits[i], magnitude, infinity, code, to_sign, largest, signed, nan)


@njit(nogil=True)
def stochastic_float64(
    bits, codes, random, random_bits, stored, width, kept, first, missing, largest, signed, nan
):
    """The same of float64 that is longer than a code and its random bits: these are one integer, the code
    with a fraction."""
    word, one = np.uint64, np.uint64(1)
    top, below_sign, infinity = _input(word, 64, stored)
    to_sign, dropped = word(top + one - word(width)), word(stored - kept - random_bits)
    normal = shift_left(word(first), word(stored))
    rebase = shift_left(word(first - 1), word(kept + random_bits))
    in_quanta = bits_as(shift_left(word(2 * 1023 - first + kept + random_bits), word(stored)), 1.0)
    random_bits, missing = word(random_bits), word(missing)
    largest, signed, nan = word(largest), word(signed), word(nan)
    drawn = one
    for i in range(len(bits)):
        magnitude = word(bits[i] & below_sign)
        if random is not None:
            drawn = word(random[i])
        fraction = word(shift_right(magnitude, dropped) - rebase)
        if magnitude < normal:
            fraction = word(np.int64(bits_as(min(magnitude, normal), 1.0) * in_quanta))
        code = shift_right(word(fraction + drawn), random_bits)
        code = word(max(code, missing) - missing)
        codes[i] = _sign_and_nan(word, bits[i], magnitude, infinity, code, to_sign, largest, signed, nan)
