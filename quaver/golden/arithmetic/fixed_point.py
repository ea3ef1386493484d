"""Fixed point: products summed up exactly, and each sum rounded once on its way out.

After Gupta et al., ICML 2015 (arXiv 1502.02551, §3 and §5): 16-bit operands ⟨IL, FL⟩, a wide accumulator,
and at the edge of the array one conversion to the result's ⟨IL, FL⟩ that rounds stochastically and saturates.
What one output is, with A of shape (M, K) and B of shape (K, N), in integers::

    z = Σ a[i, k] · b[k, j]                  exact, in steps of 2**−(FL of A + FL of B)
    c[i, j] = saturate(round(z))             in steps of 2**−(FL of the result)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from quaver.golden.arithmetic.operands import check_operands
from quaver.golden.contracts import Codes, Draws
from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import FixedFormat
from quaver.golden.random_bits import States, draws_of, first_draws, states
from quaver.golden.rounding import NEAREST_OR_DRAWN, RANDOM_BITS, Rounding, round_integer, round_integers
from quaver.golden.update.fixed_sgd import FixedSGD
from quaver.golden.validation import set_integers

_Q8_8 = FixedFormat(8, 8)


@dataclass(frozen=True)
class FixedPoint:
    """C = A·B with exact sums, each rounded once.

    Parameters
    ----------
    a, b
        Formats of the two operands.
    result
        Format of C, with no more fraction bits than the products have.
    rounding
        "stochastic", its variants "stochastic-b" and "stochastic-c" of `quaver.golden.rounding.Rounding`, or
        "nearest" (ties to even).
    random_bits
        R, the random bits of one stochastic rounding, 1 … 32.
    accumulator_bits
        Width of the exact sum, 2 … 63: it bounds K, see `chunk`.

    Notes
    -----
    Stochastic rounding is `quaver.golden.rounding.round_integer`'s, with the random bits that
    `quaver.golden.random_bits` has for the first sum of an output. Hence the result depends on the seed
    alone, not on tiles or the size of an array.
    """

    a: FixedFormat = _Q8_8
    b: FixedFormat = _Q8_8
    result: FixedFormat = _Q8_8
    rounding: Rounding | str = Rounding.STOCHASTIC
    random_bits: int = RANDOM_BITS
    accumulator_bits: int = 48

    def __post_init__(self) -> None:
        for name in ("a", "b", "result"):
            value = getattr(self, name)
            if not isinstance(value, FixedFormat):
                raise TypeError(f"{name} is {value!r}, but it must be a FixedFormat, e.g. FixedFormat(8, 8)")
        if self.rounding not in NEAREST_OR_DRAWN:
            raise ValueError(
                f"rounding is {self.rounding!r}, but it must be one of {', '.join(NEAREST_OR_DRAWN)}"
            )
        object.__setattr__(self, "rounding", Rounding(self.rounding))
        set_integers(self, "random_bits", "accumulator_bits")
        if not 1 <= self.random_bits <= 32:
            raise ValueError(f"random_bits is {self.random_bits}, but stochastic rounding takes 1 … 32")
        product = self.a.width + self.b.width
        if not product <= self.accumulator_bits <= 63:
            raise ValueError(
                f"accumulator_bits is {self.accumulator_bits}, but sums of products of {self.a.width}-bit "
                f"and {self.b.width}-bit operands take {product} … 63"
            )
        if not 0 <= self.dropped_bits < self.accumulator_bits:
            raise ValueError(
                f"result is {self.result}, but the products have {self.a.fraction_bits} + "
                f"{self.b.fraction_bits} fraction bits: take at most as many, and at most "
                f"{self.accumulator_bits - 1} fewer"
            )

    @property
    def _magnitude_bits(self) -> int:
        """No product is larger than 2 to the power of this."""
        return self.a.width - 1 + self.b.width - 1

    @property
    def dropped_bits(self) -> int:
        """Bits of a sum below the result's last."""
        return self.a.fraction_bits + self.b.fraction_bits - self.result.fraction_bits

    @property
    def hardware(self) -> FixedPoint:
        """The same on integers: what it does to codes, wherever the binary points stand."""
        a, b, dropped = FixedFormat(self.a.width, 0), FixedFormat(self.b.width, 0), self.dropped_bits
        return replace(self, a=a, b=b, result=FixedFormat(self.result.width + dropped, -dropped))

    @property
    def equivalents(self) -> tuple[FixedPoint, ...]:
        """`self` alone."""
        return (self,)

    @property
    def default_update(self) -> FixedSGD | None:
        """Gupta et al.'s: weights and updates in the format of B, which weights are in the forward GEMM, and
        gradients of 2 integer bits. None: there is no such update for a format so fine."""
        try:
            gradients = FixedFormat(2, self.b.width - 2)
            return FixedSGD(0.0, 0.0, 0.0, self.b, self.b, gradients, Rounding(self.rounding))
        except ValueError:
            return None

    @property
    def stochastic(self) -> bool:
        """Whether a GEMM takes a seed."""
        return Rounding(self.rounding).draws

    @property
    def draws(self) -> Draws:
        """Random bits for every result, if `stochastic` and there are bits to drop."""
        return Draws.RESULTS if self.stochastic and self.dropped_bits else Draws.NOTHING

    @property
    def chunk(self) -> int:
        """The largest K, all of it one chunk: so many products of any codes fit the accumulator."""
        return (1 << (self.accumulator_bits - 1 - self._magnitude_bits)) - 1

    @property
    def identity(self) -> tuple[int, int]:
        """Codes (a, b) whose product is 0: a bubble in an array."""
        return 0, 0

    @standard_floats
    def gemm(self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None) -> Codes:
        """C = A·B.

        Parameters
        ----------
        a_codes, b_codes
            Operand codes, shapes (M, K) and (K, N), K at most `chunk`. Any of M, K, N may be 0.
        seed
            1 … 2**32 − 1 for stochastic rounding; nearest has no use for it.

        Returns
        -------
        Codes of `result`, shape (M, N).
        """
        a, b = self._integers(a_codes, b_codes, seed)
        # A float64 holds every integer up to 2**53: with so few products, every partial sum of the product of
        # two float64 matrices is exact, in whatever order it is made.
        step = 1 << (53 - self._magnitude_bits)
        x, y = a.astype(np.float64), b.astype(np.float64)
        total = np.zeros((a.shape[0], b.shape[1]), np.int64)
        for k in range(0, a.shape[1], step):
            total += (x[:, k : k + step] @ y[k : k + step]).astype(np.int64)
        random = None
        if self.draws is Draws.RESULTS:
            random = first_draws(self.sources(seed), *total.shape, self.random_bits)
        return self.result.codes(
            round_integers(total, self.dropped_bits, self.rounding, random, self.random_bits)
        )

    @standard_floats
    def definition(self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None) -> Codes:
        """The same as `gemm` in Python's integers, an output at a time: what `gemm` is held to."""
        a, b = self._integers(a_codes, b_codes, seed)
        highest = self.result.max_code
        c = np.zeros((a.shape[0], b.shape[1]), self.result.code_dtype)
        for i, j in np.ndindex(*c.shape):
            z = sum(int(p) * int(q) for p, q in zip(a[i], b[:, j], strict=True))
            random = next(draws_of(seed, i, j, self.random_bits)) if self.stochastic else 0
            rounded = round_integer(z, self.dropped_bits, self.rounding, random, self.random_bits)
            c[i, j] = min(max(rounded, -highest - 1), highest) % (1 << self.result.width)
        return c

    def check(
        self, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None
    ) -> tuple[Codes, Codes]:
        """The operands as arrays of codes; errors as of `check_operands`, and for K beyond `chunk`."""
        a, b = check_operands(self, a_codes, b_codes, seed)
        if a.shape[1] > self.chunk:
            raise ValueError(
                f"K is {a.shape[1]}, but {self.accumulator_bits} accumulator bits hold any sum of "
                f"{self.chunk} products; take more of them"
            )
        return a, b

    def _integers(self, a_codes: ArrayLike, b_codes: ArrayLike, seed: int | None) -> tuple[Codes, Codes]:
        """The operands as signed integers."""
        a, b = self.check(a_codes, b_codes, seed=seed)
        return self.a.integers(a), self.b.integers(b)

    def sources(self, seed: int | None, row: int = 0, column: int = 0) -> States:
        """The states of the random sources at output (row, column)."""
        return states(seed, row, column)
