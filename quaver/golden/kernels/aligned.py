"""The fused GEMM of `quaver.golden.arithmetic.aligned_float`: products aligned, cut, added.

Scaled by 2**(F − e), where e is the group's largest exponent, a term's integer part is what its alignment
keeps. So a product costs two multiplications, one conversion to an integer and one addition of integers, and
its part in finding e: an addition and a maximum of 16-bit integers. Outputs lie in the lanes of vector
registers; the loops over them are plain, and the compiler makes instructions of whichever width there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numba
import numpy as np
from numpy.typing import NDArray

from quaver.golden.formats import FP32, FloatFormat
from quaver.golden.kernels.axpy import axpy_to_odd
from quaver.golden.kernels.cast import bits_as
from quaver.golden.kernels.threads import each
from quaver.golden.kernels.vector import ONE_THREAD_MACS, spans
from quaver.golden.rounding import Rounding

Array = NDArray[Any]

#: Outputs side by side, and products that are decoded at once: the panels stay in the second cache.
LANES, DEPTH = 256, 64
#: Rows that are decoded at once.
BLOCK_ROWS = 128

#: The exponent of a zero, below every other: it never is the largest.
NO_EXPONENT = -8000


class AlignedSums(Protocol):
    """The parameters of `quaver.golden.arithmetic.aligned_float.AlignedFloat`, which stands above."""

    @property
    def a(self) -> FloatFormat: ...
    @property
    def b(self) -> FloatFormat: ...
    @property
    def group(self) -> int: ...
    @property
    def fraction_bits(self) -> int: ...
    @property
    def accumulator(self) -> FloatFormat: ...
    @property
    def chunk(self) -> int: ...
    @property
    def total(self) -> FloatFormat: ...
    @property
    def aligning(self) -> Rounding | str: ...
    @property
    def rounding(self) -> Rounding | str: ...
    @property
    def total_rounding(self) -> Rounding | str: ...
    @property
    def largest_integer(self) -> int: ...


@dataclass(frozen=True)
class AlignedPlan:
    """How the kernel computes a GEMM: its types, and the clauses that formats and data need.

    Attributes
    ----------
    value
        The float of operands and products: float32 or float64.
    integer
        The integer of a group's sum: int32 or int64.
    work
        The float in which a group's sum is rounded to the accumulator.
    careful
        Whether a sum may overflow or lie off the accumulator's grid below its smallest normal value, or there
        are infinities or NaN.
    """

    value: type[np.floating]
    integer: type[np.signedinteger]
    work: type[np.floating]
    careful: bool


def plan(sums: AlignedSums, a: Array, b: Array) -> AlignedPlan:
    """The narrowest types that are exact for these operands.

    Let e_min be the least exponent of a product that is not zero, F the fraction bits. Every term that is
    kept is a multiple of 2**(e_min − F), and so is every sum; hence an accumulator that is not zero has an
    exponent of at least that, and the largest scale is 2**(2F − e_min).

    - Operands and products are exact: every operand is a float of the type, the products' significands fit
      it, and their exponents its normal range. A scaled term that underflows had an integer part of 0.
    - The integers hold `largest_integer`, and the float that rounds them that and the sum before.
    """
    (low_a, high_a, finite_a), (low_b, high_b, finite_b) = _exponents(sums.a, a), _exponents(sums.b, b)
    acc, F = sums.accumulator, sums.fraction_bits
    finite = finite_a and finite_b
    least, most = low_a + low_b, high_a + high_b + 2
    lowest = least - F
    reach = most + math.ceil(math.log2(max(a.shape[1], 1) + 1)) + 1
    careful = not finite or reach > acc.max_exponent or lowest < acc.quantum_exponent
    small = sums.largest_integer < 1 << 31
    fits = (
        sums.a.precision + sums.b.precision <= 24
        and all(fmt.value_dtype is np.float32 for fmt in (sums.a, sums.b, acc))
        and min(lowest - F, least - sums.a.mantissa_bits - sums.b.mantissa_bits) >= -126
        and most < 127
    )
    if fits and small:
        # A group's products and the sum before it, whose significand is below 2.
        narrow = sums.largest_integer + (2 << F) <= 1 << 24 and not careful
        return AlignedPlan(np.float32, np.int32, np.float32 if narrow else np.float64, careful)
    return AlignedPlan(np.float64, np.int64, np.float64, careful)


def _exponents(fmt: FloatFormat, codes: Array) -> tuple[int, int, bool]:
    """The least and the largest exponent of what is neither zero nor special, and whether nothing is."""
    magnitude = codes & (fmt.sign_code - 1)
    finite = int(magnitude.max()) <= fmt.max_code
    numbers = magnitude[(magnitude > 0) & (magnitude <= fmt.max_code)]
    if not numbers.size:
        return 0, 0, finite
    _, exponents = tables(fmt, np.float64)
    return int(exponents[numbers.min()]), int(exponents[numbers.max()]), finite


def tables(fmt: FloatFormat, value: type[np.floating]) -> tuple[Array, Array]:
    """What each code is worth, and its exponent: the smallest normal value's if it is subnormal."""
    values = fmt.decode(np.arange(1 << fmt.width, dtype=fmt.code_dtype)).astype(np.float64)
    finite = np.isfinite(values) & (values != 0)
    _, exponents = np.frexp(np.where(finite, values, 1.0))
    exponents = np.maximum(exponents - 1, fmt.min_exponent)
    return values.astype(value), np.where(finite, exponents, NO_EXPONENT).astype(np.int16)


def aligned_gemm(sums: AlignedSums, a: Array, b: Array) -> Array:
    """Codes of C from the codes `a` (M, K) and `b` (K, N), none of M, K, N being 0."""
    how = plan(sums, a, b)
    total = sums.total
    # C' = B'·A' is the same sums: the longer side lies in the lanes.
    turned = len(a) > b.shape[1]
    left, right = (b.T, a.T) if turned else (a, b)
    # One type of codes: one kernel to compile.
    left, right = np.ascontiguousarray(left, np.uint16), np.ascontiguousarray(right, np.uint16)
    formats = (sums.b, sums.a) if turned else (sums.a, sums.b)
    shape, kind = (len(left), right.shape[1]), sums.accumulator.value_dtype
    if kind is np.float32 and total == FP32 and sums.total_rounding is Rounding.NEAREST_EVEN:
        totals: Array = np.zeros(shape, kind)  # a fold is float32's own addition
        _run(sums, how, formats, left, right, sums.chunk, totals)
    else:
        totals = np.zeros(shape)
        for first in range(0, a.shape[1], sums.chunk):
            partials = np.zeros(shape, kind)
            part = slice(first, first + sums.chunk)
            _run(sums, how, formats, np.ascontiguousarray(left[:, part]), right[part], sums.chunk, partials)
            # To odd in float64, then as the total is: rounded once.
            summed = axpy_to_odd(1.0, partials.reshape(-1), totals.reshape(-1))
            totals = total.round(summed, sums.total_rounding).astype(np.float64).reshape(shape)
    return total.encode(totals.T if turned else totals)


def _run(
    sums: AlignedSums,
    how: AlignedPlan,
    formats: tuple[FloatFormat, FloatFormat],
    left: Array,
    right: Array,
    chunk: int,
    totals: Array,
) -> None:
    """Adds the sum of each chunk of left · right to `totals`."""
    acc, F = sums.accumulator, sums.fraction_bits
    value, work = np.finfo(how.value), np.finfo(how.work)
    word = np.int32 if how.work is np.float32 else np.int64
    value_word = np.int32 if how.value is np.float32 else np.int64
    dropped = work.nmant - acc.mantissa_bits
    terms, nearest = (one is Rounding.NEAREST_EVEN for one in (sums.aligning, sums.rounding))
    kinds = how.value(0), value_word(0), how.integer(0), how.work(0), word(0)
    depth = max(DEPTH // sums.group, 1) * sums.group
    scale = value_word(value.nmant), value_word(value.maxexp - 1 + F)
    unit = word(work.nmant), word(work.maxexp - 1 - F), word(max(value.minexp, work.minexp) + F)
    # Half of the last kept bit, less one, and its parity are added: of what is cut off, nothing is.
    cut = (
        word(dropped),
        word((1 << dropped >> 1) - 1 if nearest and dropped else 0),
        word(nearest and dropped > 0),
    )
    limits = None
    if how.careful:
        limits = (
            word(acc.min_exponent),
            2.0**acc.min_exponent,
            2.0**acc.quantum_exponent,
            acc.max_value,
            nearest,
        )
    rules = (sums.group, chunk, depth), word(work.maxexp - 1), scale, unit, cut, terms
    rows, columns = totals.shape
    step = min(-(-columns // 16) * 16, LANES)
    tiles = -(-columns // step)
    threads = numba.get_num_threads() if left.size * columns > ONE_THREAD_MACS else 1
    tables_of = tuple(tables(fmt, how.value) for fmt in formats)
    inputs = (left, right, *tables_of, kinds, rules, True if terms else None, limits, step, totals)
    if rows >= tiles:
        jobs = [(*inputs, span, (0, tiles)) for span in spans(rows, threads)]
    else:
        jobs = [(*inputs, (0, rows), span) for span in spans(tiles, threads)]
    each(_tiles, jobs, threads)


@numba.njit(cache=True, nogil=True)
def _tiles(
    left, right, one_tables, other_tables, kinds, rules, nearest, limits, lanes, totals, rows, columns
):
    """Rows `rows` (first, end) of the codes `left` (rows, K) times tiles `columns` of `right` (K, columns).

    The sum of each chunk is added to `totals` (rows, columns). A tile is `lanes` columns, or those that are
    left. `kinds` are zeros of the types of `AlignedPlan` and of the words of its floats; `rules`, `nearest`
    and `limits` are as `_run` makes them, and what is None is not compiled. A block of rows is decoded
    `depth` products deep, then meets the decoded tiles of columns in turn.
    """
    value, _, integer, work, _ = kinds
    (group, chunk, depth), bias, scale, unit, cut, terms = rules
    products, width = right.shape
    depth = min(depth, products)
    block = min(BLOCK_ROWS, rows[1] - rows[0])
    x, x_exponents = np.zeros((block, depth), type(value)), np.zeros((block, depth), np.int16)
    y, y_exponents = np.zeros((depth, lanes), type(value)), np.full((depth, lanes), np.int16(NO_EXPONENT))
    partials = np.zeros((columns[1] - columns[0], block, lanes), type(work))
    room = (
        np.zeros(lanes, np.int16),
        np.zeros(lanes, type(value)),
        np.zeros(lanes, type(integer)),
        np.zeros(lanes, type(work)),
        np.zeros(lanes, type(value)),
    )
    for first in range(rows[0], rows[1], block):
        count = min(block, rows[1] - first)
        k = 0
        while k < products:
            stop = min(k + depth, k - k % chunk + chunk, products)
            length, fresh, finished = stop - k, k % chunk == 0, stop % chunk == 0 or stop == products
            for i in range(count):
                for n in range(length):
                    code = left[first + i, k + n]
                    x[i, n], x_exponents[i, n] = one_tables[0][code], one_tables[1][code]
            for j in range(columns[0], columns[1]):
                column = j * lanes
                there = min(lanes, width - column)
                for n in range(length):
                    for lane in range(there):
                        code = right[k + n, column + lane]
                        y[n, lane], y_exponents[n, lane] = other_tables[0][code], other_tables[1][code]
                    for lane in range(there, lanes):
                        y[n, lane], y_exponents[n, lane] = 0, NO_EXPONENT
                for i in range(count):
                    sums = partials[j - columns[0], i]
                    if fresh:
                        sums[:] = 0
                    for n in range(0, length, group):
                        end = min(n + group, length)
                        one, other = (x[i, n:end], x_exponents[i, n:end]), (y[n:end], y_exponents[n:end])
                        _largest_exponents(one[1], other[1], sums, kinds, bias, unit[0], limits, room)
                        _scale(kinds, scale, unit, room)
                        _add_integers(one[0], other[0], nearest, limits, room)
                        _round(kinds, cut, terms, limits, room, sums)
                    if finished:
                        for lane in range(there):
                            totals[first + i, column + lane] += sums[lane]
            k = stop


@numba.njit(nogil=True)
def _largest_exponents(x, y, sums, kinds, bias, stored, limits, room):
    """The largest exponent of each lane's terms: of products x (K,) and y (K, lanes), and of its sum."""
    exponents, word = room[0], kinds[4]
    kind, narrow = type(word), exponents.dtype.type
    for lane in range(len(exponents)):
        e = kind(((bits_as(sums[lane], word) >> stored) & kind(2 * bias + 1)) - bias)
        if limits is not None:  # noqa: SIM102 (alone, so that the compiler drops it)
            if sums[lane] != 0:
                e = max(e, limits[0])
        exponents[lane] = e
    k, length = 0, len(x)
    while k + 4 <= length:
        a, b, c, d = x[k], x[k + 1], x[k + 2], x[k + 3]
        for lane in range(len(exponents)):
            first = max(narrow(a + y[k, lane]), narrow(b + y[k + 1, lane]))
            second = max(narrow(c + y[k + 2, lane]), narrow(d + y[k + 3, lane]))
            exponents[lane] = max(exponents[lane], max(first, second))
        k += 4
    while k < length:
        a = x[k]
        for lane in range(len(exponents)):
            exponents[lane] = max(exponents[lane], narrow(a + y[k, lane]))
        k += 1


@numba.njit(nogil=True)
def _scale(kinds, scale, unit, room):
    """2**(F − e), which makes an integer of what a term keeps, and 2**(e − F), which makes it a number."""
    exponents, scales, _, units, _ = room
    value, value_word, _, work, word = kinds
    (value_stored, value_bias), (stored, bias, least) = scale, unit
    value_kind, kind = type(value_word), type(word)
    for lane in range(len(exponents)):
        e = max(value_kind(exponents[lane]), value_kind(least))
        scales[lane] = bits_as(value_kind(value_kind(value_bias - e) << value_stored), value)
    for lane in range(len(exponents)):
        e = max(kind(exponents[lane]), least)
        units[lane] = bits_as(kind(kind(bias + e) << stored), work)


@numba.njit(nogil=True)
def _kept(term, nearest):
    """The integer part of a scaled term."""
    if nearest is not None:
        return np.rint(term)
    return term  # its conversion to an integer cuts it


@numba.njit(nogil=True)
def _add_integers(x, y, nearest, limits, room):
    """The sums of the integer parts of the scaled products; those of infinities and NaN apart."""
    _, scales, integers, _, specials = room
    kind = integers.dtype.type
    integers[:] = 0
    k, length = 0, len(x)
    if limits is not None:
        specials[:] = 0
        while k < length:
            a = x[k]
            for lane in range(len(integers)):
                product = a * y[k, lane]
                if np.isfinite(product):
                    integers[lane] += kind(_kept(product * scales[lane], nearest))
                else:
                    specials[lane] += product
            k += 1
    while k + 4 <= length:
        a, b, c, d = x[k], x[k + 1], x[k + 2], x[k + 3]
        for lane in range(len(integers)):
            scale = scales[lane]
            first = kind(_kept(a * y[k, lane] * scale, nearest)) + kind(
                _kept(b * y[k + 1, lane] * scale, nearest)
            )
            second = kind(_kept(c * y[k + 2, lane] * scale, nearest)) + kind(
                _kept(d * y[k + 3, lane] * scale, nearest)
            )
            integers[lane] += first + second
        k += 4
    while k < length:
        a = x[k]
        for lane in range(len(integers)):
            integers[lane] += kind(_kept(a * y[k, lane] * scales[lane], nearest))
        k += 1


@numba.njit(nogil=True)
def _round(kinds, cut, terms, limits, room, sums):
    """The new sums: the integers and what is kept of the old sums, rounded to the accumulator."""
    _, scales, integers, units, specials = room
    work, word = kinds[3], kinds[4]
    float_kind, kind = type(work), type(word)
    dropped, half, odd = cut
    mask = kind(~((kind(1) << dropped) - kind(1)))
    for lane in range(len(sums)):
        old = sums[lane]
        term = old * float_kind(scales[lane])
        term = np.rint(term) if terms else np.trunc(term)
        exact = float_kind(integers[lane]) + term
        bits = bits_as(exact, word)
        bits = kind(bits + half + ((bits >> dropped) & odd))
        new = bits_as(kind(bits & mask), work) * units[lane]
        if limits is not None:
            _, smallest, quantum, largest, nearest = limits
            if abs(new) <= smallest:
                steps = exact * units[lane] / quantum
                new = (np.rint(steps) if nearest else np.trunc(steps)) * quantum
            if abs(new) > largest:
                new = np.copysign(float_kind(np.inf), new)
            if specials[lane] != 0 or not np.isfinite(old):
                new = old + specials[lane]
        sums[lane] = new + float_kind(0)  # −0 + 0 is +0
