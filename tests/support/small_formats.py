"""Small formats, and tables of their rounded sums by `quaver.golden.exact`, to define millions of results."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from fractions import Fraction
from itertools import islice, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden import exact
from quaver.golden.arithmetic import ChunkedFloat
from quaver.golden.exact import Exact
from quaver.golden.formats import FloatFormat, Specials
from quaver.golden.random_bits import draws_of
from quaver.golden.rounding import Rounding

Codes = NDArray[Any]


def formats(
    width: int, specials: Sequence[Specials], saturate: Sequence[bool] = (False, True)
) -> list[FloatFormat]:
    """Every format of at most `width` bits with the bias that it has by itself."""
    return [
        FloatFormat(e, m, specials=kind, saturate=saturating)
        for bits in range(4, width + 1)
        for e in range(2, bits - 1)
        for m in [bits - 1 - e]
        for kind in specials
        for saturating in saturate
    ]


def distinct(values: Sequence[Exact]) -> tuple[list[Exact], NDArray[np.intp]]:
    """The different values, the zeros of either sign among them, and which one each of `values` is."""
    numbers: dict[tuple[object, ...], int] = {}
    found: list[Exact] = []
    index = []
    for value in values:
        key = (value.numerator, value.denominator) if isinstance(value, Fraction) else (repr(value),)
        if key not in numbers:
            numbers[key] = len(found)
            found.append(value)
        index.append(numbers[key])
    return found, np.array(index, np.intp)


def decoded(fmt: FloatFormat) -> list[Exact]:
    """What every code means."""
    return [exact.decode(fmt, code) for code in range(1 << fmt.width)]


def products(a: FloatFormat, b: FloatFormat) -> list[Exact]:
    """The product of every code of `a` and every code of `b`, which counts faster."""
    left, right = decoded(a), decoded(b)
    return [exact.multiply(x, y) for x in left for y in right]


class Sums:
    """Rounded sums of the numbers of `fmt` with others; each exact sum is encoded once.

    Stochastic rounding is tabulated for every value of the `random_bits` random bits; nearest has one.
    """

    def __init__(self, fmt: FloatFormat, rounding: Rounding | str, random_bits: int = 1) -> None:
        self.format, self.rounding, self.random_bits = fmt, Rounding(rounding), random_bits
        self.draws = 1 << random_bits if self.rounding.draws else 1
        self._codes: dict[object, list[int]] = {}

    def _encoded(self, total: Exact) -> list[int]:
        return [
            exact.encode(self.format, total, self.rounding, r, self.random_bits) for r in range(self.draws)
        ]

    def table(self, addends: Sequence[Exact]) -> NDArray[np.uint32]:
        """The codes of the sums, (addend, code of `fmt`, random bits)."""
        augends = decoded(self.format)
        shape = len(addends), len(augends)
        codes = np.zeros((*shape, self.draws), np.uint32)
        finite = [np.array([isinstance(v, Fraction) for v in values]) for values in (addends, augends)]
        denominator = max([1, *(v.denominator for v in (*addends, *augends) if isinstance(v, Fraction))])
        whole = [
            np.array([int(v * denominator) if isinstance(v, Fraction) else 0 for v in values], object)
            for values in (addends, augends)
        ]
        if max(abs(int(v)) for values in whole for v in values) < 1 << 62:
            whole = [values.astype(np.int64) for values in whole]
        total = np.add.outer(*whole)
        plain = np.logical_and.outer(*finite) & (total != 0).astype(bool)
        numbers, index = np.unique(total[plain], return_inverse=True)
        rows = []
        for number in numbers.tolist():
            power = (number & -number).bit_length() - 1
            key = number >> power, power - denominator.bit_length()
            if key not in self._codes:
                self._codes[key] = self._encoded(Fraction(number, denominator))
            rows.append(self._codes[key])
        codes[plain] = np.array(rows, np.uint32).reshape(-1, self.draws)[index]
        for i, j in zip(*np.nonzero(~plain), strict=True):
            value = exact.add(augends[j], addends[i])
            key = repr(value)
            if key not in self._codes:
                self._codes[key] = self._encoded(value)
            codes[i, j] = self._codes[key]
        return codes


class Accumulation:
    """`ChunkedFloat`'s sums by tables: its definition for millions of outputs, of formats of up to 8 bits."""

    def __init__(self, arithmetic: ChunkedFloat, sums: Sums | None = None) -> None:
        self.arithmetic, accumulator = arithmetic, arithmetic.accumulator
        random_bits = arithmetic.random_bits if arithmetic.stochastic else 1
        sums = sums or Sums(accumulator, arithmetic.rounding, random_bits)
        values, index = distinct(products(arithmetic.operand, arithmetic.operand))
        self._product = index.reshape(1 << arithmetic.operand.width, -1)
        self._of_product, self._of_total = sums.table(values), sums.table(decoded(accumulator))

    def of(self, arithmetic: ChunkedFloat) -> Accumulation:
        """The same sums in another chunk."""
        other = copy(self)
        other.arithmetic = arithmetic
        return other

    def results(self, left: Codes, right: Codes, random: Codes | None = None) -> NDArray[np.uint32]:
        """Codes of the sums of left·right over the first axis, K; `random` holds the draws (n, …) of each."""
        shape = np.broadcast_shapes(left.shape[1:], right.shape[1:])
        draws = iter(random) if random is not None else repeat(np.zeros(shape, np.intp))
        total = np.zeros(shape, np.uint32)
        for start in range(0, len(left), self.arithmetic.chunk):
            partial = np.zeros(shape, np.uint32)
            stop = start + self.arithmetic.chunk
            for a, b in zip(left[start:stop], right[start:stop], strict=True):
                partial = self._of_product[self._product[a, b], partial, next(draws)]
            total = self._of_total[partial, total, next(draws)]
        return total

    def gemm(self, a: Codes, b: Codes, seed: int | None = None) -> NDArray[np.uint32]:
        """What `ChunkedFloat.gemm` must say of these codes and seed."""
        random = None
        if self.arithmetic.stochastic:
            n, bits = self.arithmetic.roundings(a.shape[1]), self.arithmetic.random_bits
            random = np.empty((n, len(a), b.shape[1]), np.intp)
            for i, j in np.ndindex(random.shape[1:]):
                random[:, i, j] = list(islice(draws_of(seed, i, j, bits), n))
        return self.results(a.T[:, :, None], b[:, None, :], random)
