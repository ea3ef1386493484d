"""Sign and magnitude: fractions between −1 and 1, as stochastic computing takes them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.float_environment import standard_floats
from quaver.golden.formats.format import Format, as_variant_a
from quaver.golden.rounding import RANDOM_BITS, Rounding
from quaver.golden.validation import set_integers

_PATTERN = re.compile(r"sm([0-9]+)")


@dataclass(frozen=True)
class SignMagnitudeFormat(Format):
    """A sign and a magnitude m of `bits` − 1 bits, which mean ±m · 2**−(bits − 1): −1 < v < 1, saturating.

    Parameters
    ----------
    bits
        Bits of a code, 2 … 16, the sign included.

    Raises
    ------
    TypeError, ValueError
        `bits` is no integer in 2 … 16.

    Notes
    -----
    The sign is the top bit, set for negative numbers. Zero has two codes; `encode` gives that without a sign.
    There are no special values: what lies beyond the ends, infinities included, becomes the end, and NaN is
    refused. The magnitude is rounded, so that a number and its negation round alike; stochastic rounding is
    up in magnitude.
    """

    bits: int

    syntax: ClassVar = "sm8"

    def __post_init__(self) -> None:
        set_integers(self, "bits")
        if not 2 <= self.bits <= 16:
            raise ValueError(f"bits is {self.bits}, but sign and magnitude have 2 to 16")

    @property
    def width(self) -> int:
        """Bits of a code."""
        return self.bits

    @property
    def fraction_bits(self) -> int:
        """Bits of a magnitude, all behind the binary point."""
        return self.bits - 1

    @property
    def lowest(self) -> int:
        """The smallest value, in steps."""
        return -self.highest

    @property
    def highest(self) -> int:
        """The largest value, in steps."""
        return (1 << self.fraction_bits) - 1

    @property
    def max_value(self) -> float:
        """The largest value: a step less than 1."""
        return self.highest * 2.0**-self.fraction_bits

    @property
    def value_dtype(self) -> type[np.floating]:
        """float32."""
        return np.float32

    def integers(self, codes: ArrayLike) -> NDArray[np.int32]:
        """The values of codes in steps of 2**−(bits − 1): int32, in the same shape."""
        q = self.check_codes(codes).astype(np.int32)
        magnitude = q & self.highest
        return np.where(q >> self.fraction_bits, -magnitude, magnitude)

    def codes(self, integers: NDArray[np.signedinteger]) -> NDArray[np.unsignedinteger]:
        """The codes of signed integers (or whole floats) in steps of 2**−(bits − 1), saturating."""
        q = np.clip(integers, self.lowest, self.highest).astype(np.int32)
        signs = (q < 0).astype(np.int32) << self.fraction_bits
        return np.asarray(np.abs(q) | signs, self.code_dtype, order="C")

    @standard_floats
    def decode(self, codes: ArrayLike) -> NDArray[np.floating]:
        """The values of `codes`: float32, of the same shape."""
        return self.integers(codes).astype(np.float32) * np.float32(2.0**-self.fraction_bits)

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
        steps = np.clip(x, -1, 1) * 2.0**self.fraction_bits
        if rounding is Rounding.NEAREST_EVEN:
            return self.codes(np.rint(steps))
        if drawn is None:
            return self.codes(np.trunc(steps))
        magnitude = np.abs(steps)
        if rounding is not Rounding.STOCHASTIC:
            moved, drawn, random_bits = as_variant_a(rounding, magnitude, drawn, random_bits, 0, 0)
            magnitude = moved.astype(np.float64)
        up = (np.floor(magnitude * 2.0**random_bits).astype(np.int64) + drawn) >> random_bits
        return self.codes(np.where(steps < 0, -up, up))

    @classmethod
    def parse(cls, name: str) -> Self | None:
        match = _PATTERN.fullmatch(name)
        return match and cls(int(match[1]))

    def __str__(self) -> str:
        return f"sm{self.bits}"
