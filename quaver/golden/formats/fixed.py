"""Fixed point: a step of 2**−FL, the same everywhere."""

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

_PATTERN = re.compile(r"q(-?[0-9]+)\.(-?[0-9]+)")


@dataclass(frozen=True)
class FixedFormat(Format):
    """Fixed point ⟨IL, FL⟩ in two's complement (Gupta et al. 2015, §3): multiples of 2**−FL, saturating.

    Parameters
    ----------
    integer_bits
        IL, the sign included: values are −2**(IL−1) … 2**(IL−1) − 2**−FL. It may be 0 or negative: a number
        far below 1.
    fraction_bits
        FL: the step between two values is 2**−FL. It may be negative.

    Raises
    ------
    ValueError
        The width IL + FL is not in 2 … 24 (float32 holds every value), or FL not in −64 … 64.

    Notes
    -----
    The code of v is v·2**FL modulo 2**width: two's complement in an unsigned integer. There are no special
    values. What lies beyond the ends, infinities included, becomes the end; NaN is refused. Stochastic
    rounding is `quaver.golden.rounding.round_integer`'s, up from the floor.
    """

    integer_bits: int
    fraction_bits: int

    syntax: ClassVar = "q6.10"

    def __post_init__(self) -> None:
        set_integers(self, "integer_bits", "fraction_bits")
        if not 2 <= self.width <= 24:
            raise ValueError(
                f"{self.integer_bits} + {self.fraction_bits} = {self.width} bits, but fixed point has 2 to 24"
            )
        if not -64 <= self.fraction_bits <= 64:
            raise ValueError(f"fraction_bits is {self.fraction_bits}, but it must be in −64 … 64")

    @property
    def width(self) -> int:
        """Bits of a code: WL."""
        return self.integer_bits + self.fraction_bits

    @property
    def quantum_exponent(self) -> int:
        """Every value is a multiple of 2**quantum_exponent."""
        return -self.fraction_bits

    @property
    def max_code(self) -> int:
        """Code of the largest value."""
        return (1 << (self.width - 1)) - 1

    @property
    def max_value(self) -> float:
        """The largest value."""
        return self.max_code * 2.0**self.quantum_exponent

    @property
    def value_dtype(self) -> type[np.floating]:
        """float32."""
        return np.float32

    def integers(self, codes: ArrayLike) -> NDArray[np.signedinteger]:
        """The values of codes in steps of 2**−FL: signed integers of the code's size, in the same shape."""
        codes = self.check_codes(codes)
        unused = 8 * codes.dtype.itemsize - self.width
        signed = np.left_shift(codes, unused, dtype=codes.dtype).view(f"i{codes.dtype.itemsize}")
        return signed >> unused

    def codes(self, integers: NDArray[np.signedinteger]) -> NDArray[np.unsignedinteger]:
        """The codes of signed integers (or whole floats) in steps of 2**−FL, saturating."""
        limited = np.clip(integers, ~self.max_code, self.max_code).astype(np.int32)
        return (limited & ((1 << self.width) - 1)).astype(self.code_dtype)

    @standard_floats
    def decode(self, codes: ArrayLike) -> NDArray[np.floating]:
        """The values of `codes`: float32, of the same shape."""
        return self.integers(codes).astype(np.float32) * np.float32(2.0**self.quantum_exponent)

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
        end = 2.0**self.integer_bits  # what lies beyond saturates however it is rounded
        steps = np.clip(x, -end, end) * 2.0**self.fraction_bits
        if rounding is Rounding.NEAREST_EVEN:
            return self.codes(np.rint(steps))
        if drawn is None:
            return self.codes(np.trunc(steps))
        if rounding is not Rounding.STOCHASTIC:
            moved, drawn, random_bits = as_variant_a(rounding, steps, drawn, random_bits, 0, 0)
            steps = moved.astype(np.float64)
        fine = np.floor(steps * 2.0**random_bits).astype(np.int64)
        return self.codes((fine + drawn) >> random_bits)

    @classmethod
    def parse(cls, name: str) -> Self | None:
        match = _PATTERN.fullmatch(name)
        return match and cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"q{self.integer_bits}.{self.fraction_bits}"
