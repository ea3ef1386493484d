"""Integers of a few bits: unsigned, signed, and the odd ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.float_environment import standard_floats
from quaver.golden.formats.format import Format
from quaver.golden.rounding import RANDOM_BITS, Rounding, round_integers
from quaver.golden.validation import Choice, set_integers

_PATTERN = re.compile(r"(uint|int|odd)([0-9]+)")


class Levels(Choice):
    """Which integers the 2**k codes of an `IntegerFormat` are."""

    UNSIGNED = "uint"
    """0 … 2**k − 1"""
    SIGNED = "int"
    """−2**(k−1) … 2**(k−1) − 1, in two's complement"""
    ODD = "odd"
    """−(2**k − 1), −(2**k − 3), … −1, 1, … 2**k − 1"""


@dataclass(frozen=True)
class IntegerFormat(Format):
    """Integers of k bits, saturating; what one of them is worth is said elsewhere, a layer at a time.

    Parameters
    ----------
    bits
        k, 1 … 32. Operands have at most 8; what is wider is a sum.
    levels
        Which integers they are: `Levels`.

    Raises
    ------
    TypeError, ValueError
        k is no integer in 1 … 32, or there are no such levels.

    Notes
    -----
    ======== ======================= ============ ========================================================
    levels   code q is worth         zero is      used for
    ======== ======================= ============ ========================================================
    unsigned q                       0            activations (PACT)
    signed   q − 2**k · (q's sign)   0            images, sums
    odd      2q − (2**k − 1)         not a value  weights (DoReFa, SAWB): 2**k levels, symmetric, half a
                                                  step to both sides of zero
    ======== ======================= ============ ========================================================

    The correction that odd levels ask of hardware: with s = q − 2**(k−1), a signed number of k bits whose
    code is q with its top bit inverted, the level is 2s + 1. So Σ a·(2q − (2**k − 1)) = 2·Σ a·s + Σ a. An
    element multiplies k-bit numbers and adds a once more, one row of adders; it needs no multiplier of k + 1
    bits, and no sum of the activations beside the array.

    There are no special values. What lies beyond the ends, infinities included, becomes the end; NaN is
    refused. Ties go to the even integer, and of odd levels to the even code. Toward zero, what lies between
    the odd levels −1 and 1 keeps its sign; 0 becomes 1.
    """

    bits: int
    levels: Levels = Levels.UNSIGNED

    syntax: ClassVar = "uint4, int4 or odd4"

    def __post_init__(self) -> None:
        set_integers(self, "bits")
        object.__setattr__(self, "levels", Levels(self.levels))
        if not 1 <= self.bits <= 32:
            raise ValueError(f"bits is {self.bits}, but an integer format has 1 to 32")

    @property
    def width(self) -> int:
        """Bits of a code: k."""
        return self.bits

    @property
    def step(self) -> int:
        """From one value to the next: 2 of odd levels, else 1."""
        return 2 if self.levels is Levels.ODD else 1

    @property
    def lowest(self) -> int:
        """The smallest value."""
        if self.levels is Levels.SIGNED:
            return -(1 << (self.bits - 1))
        return 1 - (1 << self.bits) if self.levels is Levels.ODD else 0

    @property
    def highest(self) -> int:
        """The largest value."""
        return self.lowest + self.step * ((1 << self.bits) - 1)

    @property
    def max_value(self) -> float:
        """The largest value."""
        return float(self.highest)

    @property
    def value_dtype(self) -> type[np.floating]:
        """float32 up to 24 bits, else float64."""
        return np.float32 if self.bits <= 24 else np.float64

    def integers(self, codes: ArrayLike) -> NDArray[np.int64]:
        """The values of codes as int64, in the same shape."""
        return self._integers(codes).astype(np.int64)

    def _integers(self, codes: ArrayLike) -> NDArray[np.signedinteger]:
        """The values in the narrowest integers that are at hand: sums of a GEMM are many."""
        q = self.check_codes(codes)
        if self.levels is Levels.SIGNED:
            spare = 32 - self.bits
            return (q.astype(np.uint32) << spare).view(np.int32) >> spare
        return self.lowest + self.step * q.astype(np.int64)

    def codes(self, integers: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
        """The codes of integers, saturating; those between two odd levels become the lower one."""
        q = (np.clip(integers, self.lowest, self.highest).astype(np.int64) - self.lowest) // self.step
        return self._code(q)

    def _code(self, q: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
        """The codes of the q-th values, counted from the lowest."""
        if self.levels is Levels.SIGNED:
            q = q ^ (1 << (self.bits - 1))
        return np.ascontiguousarray(q.astype(self.code_dtype))

    @standard_floats
    def decode(self, codes: ArrayLike) -> NDArray[np.floating]:
        """The values of `codes`: float32 or float64, of the same shape."""
        if self.bits > 8:
            return self._integers(codes).astype(self.value_dtype)
        # Every step is exact in float32, and several times as fast as looking values up.
        q = self.check_codes(codes)
        if self.levels is Levels.SIGNED:
            q = q ^ np.uint8(1 << (self.bits - 1))
        values = q.astype(np.float32)
        if self.step != 1:
            values *= np.float32(self.step)
        if self.lowest:
            values += np.float32(self.lowest)
        return values

    @standard_floats
    def encode(
        self,
        values: ArrayLike,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        *,
        random: ArrayLike | None = None,
        random_bits: int = RANDOM_BITS,
    ) -> NDArray[np.unsignedinteger]:
        """Round `values` into the format, once; parameters and errors are those of `Format.encode`.

        NaN, for which there is no code, is a ValueError too.
        """
        x, rounding, drawn, random_bits = self._numbers(values, rounding, random, random_bits)
        finer = (
            2 if drawn is None else random_bits + 2
        )  # variants look at a bit more, and whether one is below
        if self.bits + finer > 62:
            raise ValueError(
                f"random_bits is {random_bits}, but {self} rounds by at most {60 - self.bits} of them"
            )
        # From the value below, with a bit that says that there is more: the lowest value, added to a float,
        # would round it once before.
        steps = np.ldexp(np.clip(x, self.lowest, self.highest), finer) / self.step
        floors = np.floor(steps)
        above = (floors.astype(np.int64) | (floors != steps)) - (self.lowest << finer) // self.step
        if rounding is Rounding.TOWARD_ZERO:  # which of odd levels is halfway between two
            up, down = -(-above >> finer), above >> finer
            below_zero, above_zero = -self.lowest // self.step, -(self.lowest // self.step)
            return self._code(np.where(x < 0, np.minimum(up, below_zero), np.maximum(down, above_zero)))
        # The lowest value is an even place, but int1's −1 is an odd integer.
        odd = self.lowest & 1 if self.levels is Levels.SIGNED else 0
        q = round_integers(above + (odd << finer), finer, rounding, drawn, random_bits) - odd
        return self._code(np.minimum(q, (1 << self.bits) - 1))

    @classmethod
    def parse(cls, name: str) -> Self | None:
        match = _PATTERN.fullmatch(name)
        return match and cls(int(match[2]), Levels(match[1]))

    def __str__(self) -> str:
        return f"{self.levels}{self.bits}"
