"""Integers of a few bits: every product and every sum exact.

After PACT (Choi et al. 2018, arXiv 1805.06085): unsigned activations times weights on odd levels, or signed
ones, whose scales are taken out of the sum and multiplied once at its end. What one output is, with A of
shape (M, K) and B of shape (K, N), in integers::

    c[i, j] = Σ a[i, k] · b[k, j]                  exact
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.arithmetic.operands import check_operands
from quaver.golden.contracts import Codes, Draws, HardwareRule
from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import IntegerFormat, Levels
from quaver.golden.random_bits import States
from quaver.golden.validation import set_integers

#: The widest operand, and the widest sum.
MAX_OPERAND_BITS, MAX_ACCUMULATOR_BITS = 8, 32
#: As many products as sums hold that are not told otherwise: 512 maps seen through 3×3, the longest of
#: ResNet-50's forward sums and of most networks'.
LENGTH = 4608

_ACTIVATIONS, _WEIGHTS = IntegerFormat(4), IntegerFormat(4, Levels.ODD)


def largest_product(a: IntegerFormat, b: IntegerFormat) -> int:
    """The largest magnitude of a product of a value of `a` and a value of `b`."""
    return max(-a.lowest, a.highest) * max(-b.lowest, b.highest)


def accumulator_bits(a: IntegerFormat, b: IntegerFormat, length: int = LENGTH) -> int:
    """The fewest bits that hold, with their sign, any sum of `length` products of `a` and `b`.

    A sum's magnitude is at most length · p, p the largest product's, and w bits hold −2**(w−1) …
    2**(w−1) − 1: the smallest w with length · p < 2**(w−1). One bit fewer would not do where b has both
    signs at their largest, as odd levels have.
    """
    return (length * largest_product(a, b)).bit_length() + 1


@dataclass(frozen=True)
class Integer:
    """C = A·B of small integers, exact.

    Parameters
    ----------
    a, b
        Formats of the two operands, of at most 8 bits; not odd levels both, of which no product is 0.
    accumulator_bits
        Width of the sums, which are the results, at most 32: it bounds K, see `chunk`.
    """

    a: IntegerFormat = _ACTIVATIONS
    b: IntegerFormat = _WEIGHTS
    accumulator_bits: int = accumulator_bits(_ACTIVATIONS, _WEIGHTS)

    stochastic: ClassVar = False
    draws: ClassVar = Draws.NOTHING
    random_bits: ClassVar = 0

    def __post_init__(self) -> None:
        for name in ("a", "b"):
            value = getattr(self, name)
            if not isinstance(value, IntegerFormat):
                raise TypeError(
                    f"{name} is {value!r}, but it must be an IntegerFormat, e.g. IntegerFormat(4)"
                )
            if value.bits > MAX_OPERAND_BITS:
                raise ValueError(
                    f"{name} is {value}, {value.bits} bits, but operands have at most {MAX_OPERAND_BITS}; "
                    f"take fewer"
                )
        if self.a.levels is self.b.levels is Levels.ODD:
            raise ValueError(
                f"a is {self.a} and b is {self.b}, but products of odd numbers are never 0, as a bubble in "
                f"an array must be; take uint or int for one of them"
            )
        set_integers(self, "accumulator_bits")
        least = accumulator_bits(self.a, self.b, 1)
        if not least <= self.accumulator_bits <= MAX_ACCUMULATOR_BITS:
            raise ValueError(
                f"accumulator_bits is {self.accumulator_bits}, but sums of products of {self.a} and {self.b} "
                f"take {least} … {MAX_ACCUMULATOR_BITS}"
            )

    @classmethod
    def of(cls, a: IntegerFormat, b: IntegerFormat, length: int = LENGTH) -> Integer:
        """The arithmetic whose sums hold `length` products, or what 32 bits hold if that is fewer."""
        return cls(a, b, min(accumulator_bits(a, b, length), MAX_ACCUMULATOR_BITS))

    @property
    def result(self) -> IntegerFormat:
        """The sums: signed integers of `accumulator_bits`."""
        return IntegerFormat(self.accumulator_bits, Levels.SIGNED)

    @property
    def chunk(self) -> int:
        """The largest K, all of it one chunk: so many products of any codes fit the accumulator."""
        return ((1 << (self.accumulator_bits - 1)) - 1) // largest_product(self.a, self.b)

    @property
    def identity(self) -> tuple[int, int]:
        """Codes (a, b) whose product is 0: a bubble in an array. Code 0 is 0 but for odd levels."""
        return 0, 0

    @property
    def hardware(self) -> Integer:
        """`self`."""
        return self

    @property
    def equivalents(self) -> tuple[Integer, ...]:
        """`self` alone."""
        return (self,)

    @property
    def default_update(self) -> HardwareRule | None:
        """None: the master weights are not in this arithmetic, and the host updates them."""
        return None

    def gemm(self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None) -> Codes:
        """C = A·B: codes (M, K) and (K, N), K at most `chunk`, give result codes (M, N); no `seed`."""
        from quaver.golden.kernels import dots  # compiles: not before something is computed

        a, b = self.check(a_codes, b_codes, seed=seed)
        sums = dots.gemm(a, b, (self.a, self.b)) if dots.AVAILABLE else self._by_floats(a, b)
        sums &= np.uint32((1 << self.accumulator_bits) - 1)
        return sums.astype(self.result.code_dtype, copy=False)

    @standard_floats
    def _by_floats(self, a: Codes, b: Codes) -> NDArray[np.uint32]:
        """The sums modulo 2**32, as products of float32 matrices.

        A float32 holds every integer up to 2**24: with so few products that no sum is larger, every partial
        sum of the product of two float32 matrices is exact, in whatever order and on however many threads
        NumPy's BLAS makes it. Longer sums are made of such pieces.
        """
        x, y = self.a.decode(a), self.b.decode(b)
        step = (1 << 24) // largest_product(self.a, self.b)
        if a.shape[1] <= step:
            return (x @ y).astype(np.int32).view(np.uint32)
        total = np.zeros((a.shape[0], b.shape[1]))
        for k in range(0, a.shape[1], step):
            total += x[:, k : k + step] @ y[k : k + step]
        return total.astype(np.int32).view(np.uint32)

    def definition(self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None) -> Codes:
        """The same as `gemm` in Python's integers, an output at a time: what `gemm` is held to."""
        a, b = self.check(a_codes, b_codes, seed=seed)
        x, y = self.a.integers(a), self.b.integers(b)
        limit = 1 << (self.accumulator_bits - 1)
        c = np.zeros((len(x), y.shape[1]), self.result.code_dtype)
        for i, j in np.ndindex(*c.shape):
            z = sum(int(p) * int(q) for p, q in zip(x[i], y[:, j], strict=True))
            if not -limit <= z < limit:
                raise OverflowError(f"a sum is {z}, beyond {self.accumulator_bits} bits: `chunk` is wrong")
            c[i, j] = z % (2 * limit)
        return c

    def check(
        self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None
    ) -> tuple[Codes, Codes]:
        """The operands as arrays of codes; errors as of `check_operands`, and for K beyond `chunk`."""
        a, b = check_operands(self, a_codes, b_codes, seed)
        if (k := a.shape[1]) > self.chunk:
            needed = accumulator_bits(self.a, self.b, k)
            way_out = (
                f"take {needed}"
                if needed <= MAX_ACCUMULATOR_BITS
                else "cut K into pieces and add up their results"
            )
            raise ValueError(
                f"K is {k}, but {self.accumulator_bits} accumulator bits hold any sum of {self.chunk} "
                f"products of {self.a} and {self.b}; {way_out}"
            )
        return a, b

    def sources(self, seed: int | None, row: int = 0, column: int = 0) -> States:
        """A ValueError: nothing is drawn."""
        raise ValueError(f"seed is {seed}, but {self!r} draws nothing; leave it out")
