"""Aligned accumulation: what tensor cores compute, a group of products at a time.

A group of products and the running sum are aligned to the largest exponent among them, cut a few bits below
it, and added exactly; the sum is cut to the accumulator's width. Chunks of such sums are promoted into a
second accumulator. What one output is, with A of shape (M, K) and B of shape (K, N)::

    total = +0
    for each chunk of `chunk` consecutive k:              (the last one may be short)
        partial = +0
        for each group of `group` consecutive k in it:    (the last one may be short)
            terms = partial, and a[i, k] * b[k, j] of the group
            e = the largest exponent of the terms that are not 0
            each term is rounded to a multiple of 2**(e − fraction_bits)          by `aligning`
            partial = round(the terms' exact sum)                                 by `rounding`
        total = round(total + partial)                                            by `total_rounding`
    c[i, j] = total

The exponent of a number is that of its format: floor(log2 |x|), but no less than the smallest normal value's.
A product's is the sum of its operands', although the product may be twice as large: it is not normalised.

With 13 fraction bits, groups of 32 and an accumulator of (1,8,13) this is what an H100 computes of FP8, bit
for bit; see `quaver.golden.arithmetic.named.PRESETS` for that and other units. That their sums have few bits
was found by DeepSeek-V3's authors (arXiv 2412.19437, §3.3.2), who promote them every 128 products; the
structure is that of Fasi, Higham, Mikaitis and Pranesh, PeerJ Computer Science 2021, and of MMA-Sim (Xie et
al., arXiv 2511.10909). What is defined here and was not measured on any unit: infinities, NaN, overflow and
subnormal sums (see `AlignedFloat`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from quaver.golden import exact
from quaver.golden.arithmetic.chunked_float import MAX_OPERAND_BITS, NO_CHUNKS
from quaver.golden.arithmetic.operands import check_operands
from quaver.golden.contracts import Codes, Draws
from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import E4M3, FP32, FloatFormat, Specials
from quaver.golden.random_bits import States
from quaver.golden.rounding import Rounding, round_magnitude
from quaver.golden.update.float_sgd import FloatSGD
from quaver.golden.validation import set_integers

#: The accumulator of an H100's FP8 products.
E8M13 = FloatFormat(8, 13)

#: Products of a group are all decoded, multiplied and aligned before they are added: units have up to 32.
MAX_GROUP = 256

#: Sums of a group are integers that a float64 holds.
MAX_SUM_BITS = 53

#: Magnitudes of products stay between 2 to the power of minus this and 2 to the power of it.
MAX_PRODUCT_EXPONENT = 900


@dataclass(frozen=True)
class AlignedFloat:
    """C = A·B by fused sums of a group of products, in chunks that a second accumulator adds up.

    Parameters
    ----------
    a, b
        Formats of the codes of A and B, of at most 16 bits.
    group
        Products that are added at once, 1 … 256.
    fraction_bits
        F, the bits of an aligned term below the largest exponent's: at least the accumulator's mantissa bits.
    accumulator
        Format of the sums in a chunk; it has infinity, and overflow goes there.
    chunk
        Products in a chunk, a multiple of `group`, or `chunked_float.NO_CHUNKS`, which is no promotion. It
        may exceed K: one chunk, and one fold.
    total
        Format of the totals and of C.
    aligning, rounding
        How terms are rounded when they are aligned, and the sum of a group to the accumulator: "truncate"
        (toward zero) or "nearest" (ties to even).
    total_rounding
        How a total is rounded, likewise.

    Raises
    ------
    TypeError, ValueError
        A parameter is of another kind or out of range; groups that do not divide the chunk; integers of a
        group's sum beyond 53 bits.

    Notes
    -----
    Inside a group numbers are integers: a sum of zeros, or one that cancels or underflows, is +0 whatever the
    signs. So are the sums of zeros that were measured. The accumulator underflows gradually. A sum is rounded
    as if exponents had no upper bound; what is then beyond the largest value is infinity, truncated or not.
    If any product or the sum before it is not finite, the new sum is what IEEE 754 makes of adding those that
    are not: an infinity, or NaN of ∞ − ∞ and ∞·0. The total's fold follows the same rules as
    `ChunkedFloat`'s; truncated, it never leaves the finite values. NaN is each format's one NaN, where some
    units have others.
    """

    a: FloatFormat = E4M3
    b: FloatFormat = E4M3
    group: int = 32
    fraction_bits: int = 13
    accumulator: FloatFormat = E8M13
    chunk: int = 128
    total: FloatFormat = FP32
    aligning: Rounding | str = Rounding.TOWARD_ZERO
    rounding: Rounding | str = Rounding.TOWARD_ZERO
    total_rounding: Rounding | str = Rounding.NEAREST_EVEN

    ROUNDINGS: ClassVar = (str(Rounding.TOWARD_ZERO), str(Rounding.NEAREST_EVEN))
    """What the three roundings may be."""

    def __post_init__(self) -> None:
        for name in ("a", "b", "accumulator", "total"):
            value = getattr(self, name)
            if not isinstance(value, FloatFormat):
                raise TypeError(
                    f"{name} is {value!r}, but it must be a FloatFormat, e.g. quaver.golden.formats.E4M3"
                )
        for name in ("a", "b"):
            operand = getattr(self, name)
            if operand.width > MAX_OPERAND_BITS:
                raise ValueError(
                    f"{name} is {operand}, {operand.width} bits, but operands have at most "
                    f"{MAX_OPERAND_BITS}; take fewer mantissa bits"
                )
        set_integers(self, "group", "fraction_bits", "chunk")
        if not 1 <= self.group <= MAX_GROUP:
            raise ValueError(f"group is {self.group}, but a group has 1 … {MAX_GROUP} products; take 32")
        if not 1 <= self.chunk <= NO_CHUNKS:
            raise ValueError(
                f"chunk is {self.chunk}, but it must be 1 … {NO_CHUNKS}, and so many are no chunks"
            )
        if self.chunk % self.group and self.chunk != NO_CHUNKS:
            multiple = -(-self.chunk // self.group) * self.group
            raise ValueError(
                f"chunk is {self.chunk}, but a chunk holds whole groups of {self.group}; take {multiple}, or "
                f"{NO_CHUNKS} for no chunks"
            )
        acc = self.accumulator
        if acc.specials is not Specials.IEEE or acc.saturate:
            raise ValueError(
                f"accumulator is {acc}, but its overflow must be infinity; take one such as e8m13"
            )
        most = MAX_SUM_BITS - 2 - self.group.bit_length()
        if not acc.mantissa_bits <= self.fraction_bits <= most:
            raise ValueError(
                f"fraction_bits is {self.fraction_bits}, but an accumulator of {acc.mantissa_bits} mantissa "
                f"bits and groups of {self.group} take {acc.mantissa_bits} … {most}"
            )
        for name in ("aligning", "rounding", "total_rounding"):
            if getattr(self, name) not in self.ROUNDINGS:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but it must be 'truncate' or 'nearest'")
            object.__setattr__(self, name, Rounding(getattr(self, name)))
        least = self.a.quantum_exponent + self.b.quantum_exponent
        most = self.a.max_exponent + self.b.max_exponent
        if least < -MAX_PRODUCT_EXPONENT or most > MAX_PRODUCT_EXPONENT:
            raise ValueError(
                f"products of {self.a} and {self.b} have exponents {least} … {most}, but they must be within "
                f"±{MAX_PRODUCT_EXPONENT}; take fewer exponent bits or another bias"
            )

    @property
    def result(self) -> FloatFormat:
        """Format of the codes of C: the total's."""
        return self.total

    @property
    def stochastic(self) -> bool:
        """False: nothing is drawn."""
        return False

    @property
    def draws(self) -> Draws:
        """Nothing."""
        return Draws.NOTHING

    @property
    def random_bits(self) -> int:
        """None are drawn."""
        return 0

    @property
    def hardware(self) -> AlignedFloat:
        """`self`: every parameter is one of the circuit's."""
        return self

    @property
    def equivalents(self) -> tuple[AlignedFloat, ...]:
        """`self` alone: in a wider format a subnormal operand has another exponent, and so its product."""
        return (self,)

    @property
    def default_update(self) -> FloatSGD:
        """SGD with momentum in FP16, rounded stochastically, as of `ChunkedFloat`."""
        return FloatSGD(rate=0.0)

    @property
    def identity(self) -> tuple[int, int]:
        """Codes (a, b) whose product is 0: a bubble in an array. A sum is a multiple of what its alignment
        keeps, so that adding zeros changes none."""
        return 0, 0

    @property
    def largest_integer(self) -> int:
        """No sum of a group's aligned products is larger, in units of 2**(e − F)."""
        term = 1 << (self.fraction_bits + 2)  # significands are below 2
        return self.group * (term if self.aligning is Rounding.NEAREST_EVEN else term - 1)

    @standard_floats
    def gemm(self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None) -> Codes:
        """C = A·B.

        Parameters
        ----------
        a_codes, b_codes
            Operand codes, shapes (M, K) and (K, N). Any of M, K, N may be 0; K = 0 gives +0.
        seed
            None: nothing is drawn.

        Returns
        -------
        Codes of `total`, shape (M, N).
        """
        a, b = self.check(a_codes, b_codes, seed=seed)
        if 0 in a.shape or 0 in b.shape:
            return np.zeros((a.shape[0], b.shape[1]), self.total.code_dtype)
        from quaver.golden.kernels.aligned import aligned_gemm  # compiles: not before something is computed

        return aligned_gemm(self, a, b)

    @standard_floats
    def definition(self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None) -> Codes:
        """The same as `gemm` in integers and fractions, one output at a time: what `gemm` is held to."""
        a, b = self.check(a_codes, b_codes, seed=seed)
        K = a.shape[1]
        c = np.zeros((a.shape[0], b.shape[1]), self.total.code_dtype)
        for i, j in np.ndindex(*c.shape):
            total = 0
            for start in range(0, K, self.chunk):
                partial, end = 0, min(start + self.chunk, K)
                for k in range(start, end, self.group):
                    stop = min(k + self.group, end)
                    pairs = zip(a[i, k:stop].tolist(), b[k:stop, j].tolist(), strict=True)
                    partial = self.fused(partial, list(pairs))
                value = exact.add(exact.decode(self.total, total), exact.decode(self.accumulator, partial))
                total = exact.encode(self.total, value, self.total_rounding)
            c[i, j] = total
        return c

    def fused(self, partial: int, products: list[tuple[int, int]]) -> int:
        """One step of the definition: the accumulator's code `partial` and a group's operand codes (a, b)."""
        acc = self.accumulator
        terms = [_Term.of(acc, partial)]
        terms += [_Term.of(self.a, a).times(_Term.of(self.b, b)) for a, b in products]
        special: exact.Exact = 0.0
        for term in terms:
            if not isinstance(term.value, Fraction) and term.value != 0:
                special = exact.add(special, term.value)
        if special != 0:
            return exact.encode(acc, special)
        numbers = [(term.value, term.exponent) for term in terms if isinstance(term.value, Fraction)]
        if not numbers:
            return 0
        unit = Fraction(2) ** (max(exponent for _, exponent in numbers) - self.fraction_bits)
        total = sum((_rounded(value / unit, self.aligning) for value, _ in numbers), 0) * unit
        if total == 0:
            return 0
        if abs(total) >= Fraction(2) ** (acc.max_exponent + 1):
            return exact.encode(acc, np.inf if total > 0 else -np.inf)
        rounded = exact.encode(acc, total, self.rounding)
        return 0 if rounded == acc.sign_code else rounded

    def check(
        self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None
    ) -> tuple[Codes, Codes]:
        """The operands as arrays of codes; errors as of `check_operands`."""
        return check_operands(self, a_codes, b_codes, seed)

    def sources(self, seed: int | None, row: int = 0, column: int = 0) -> States:
        """ValueError: nothing is drawn."""
        raise ValueError("AlignedFloat draws no random bits; there are no sources")


@dataclass(frozen=True)
class _Term:
    """An exact value and, if it is a number other than 0, its exponent."""

    value: exact.Exact
    exponent: int = 0

    @staticmethod
    def of(fmt: FloatFormat, code: int) -> _Term:
        value = exact.decode(fmt, code)
        if not isinstance(value, Fraction):
            return _Term(value)
        field = (code & (fmt.sign_code - 1)) >> fmt.mantissa_bits
        return _Term(value, max(field - fmt.bias, fmt.min_exponent))

    def times(self, other: _Term) -> _Term:
        return _Term(exact.multiply(self.value, other.value), self.exponent + other.exponent)


def _rounded(value: Fraction, rounding: Rounding | str) -> int:
    """A value, whose denominator is a power of two, as an integer."""
    dropped = value.denominator.bit_length() - 1
    magnitude = round_magnitude(abs(value.numerator), dropped, rounding)
    return -magnitude if value < 0 else magnitude
