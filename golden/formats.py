"""Small floating-point formats: what a code means, and which code a value becomes.

*Codes* are unsigned integers, what the wires carry. *Values* are float32 arrays (float64 where float32 does
not hold the format) that lie on the format's grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.rounding import RANDOM_BITS, Rounding


class Specials(StrEnum):
    """What the top of the code space means."""

    IEEE = "ieee"
    """The top exponent holds infinity (mantissa 0) and NaN (any other mantissa)."""
    OCP_FN = "fn"
    """The all-ones magnitude is NaN, there is no infinity, all other codes are numbers (OCP FP8 E4M3)."""


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format of at most 16 bits, by IEEE 754's rules at other widths.

    Parameters
    ----------
    exponent_bits, mantissa_bits
        Widths of the fields; sign, exponent, mantissa from the top bit down.
    bias
        Exponent bias; 2**(exponent_bits − 1) − 1 when left out.
    specials
        `Specials.IEEE` (infinity and NaN in the top exponent) or `Specials.OCP_FN` (one NaN, no infinity).
    saturate
        What `encode` does with overflow and infinity unless told otherwise: the largest finite value of the
        same sign when true, infinity (or NaN where there is no infinity) when false. NaN is always kept.

    Raises
    ------
    ValueError
        The fields do not fit: exponent_bits in 2 … 11, mantissa_bits ≥ 1, at most 16 bits with the sign, and
        a bias that puts every exponent in −1000 … 1000.

    Notes
    -----
    Subnormals are gradual. The one NaN that `encode` makes has sign 0, the top exponent, and only the top
    mantissa bit set (IEEE), or sign 0 and all ones (OCP-fn); `decode` takes every NaN code.
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int = None  # type: ignore[assignment]  # resolved below, so that equal formats compare equal
    specials: Specials = Specials.IEEE
    saturate: bool = False

    def __post_init__(self) -> None:
        e, m = self.exponent_bits, self.mantissa_bits
        if not 2 <= e <= 11:
            raise ValueError(f"exponent_bits is {e}, but a format has 2 to 11 of them")
        if m < 1:
            raise ValueError(f"mantissa_bits is {m}, but a format has at least 1, or NaN would have no code")
        if 1 + e + m > 16:
            raise ValueError(
                f"1 + {e} + {m} = {1 + e + m} bits, but a format fits 16; take fewer mantissa bits"
            )
        if self.bias is None:
            object.__setattr__(self, "bias", (1 << (e - 1)) - 1)
        object.__setattr__(self, "specials", Specials(self.specials))
        if self.quantum_exponent < -1000 or self.max_exponent > 1000:
            raise ValueError(
                f"bias is {self.bias}, but every value must be a float64: exponents in −1000 … 1000"
            )

    @property
    def width(self) -> int:
        """Bits of a code."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def precision(self) -> int:
        """Bits of the significand, the hidden one included."""
        return self.mantissa_bits + 1

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value."""
        return 1 - self.bias

    @property
    def quantum_exponent(self) -> int:
        """Exponent of the smallest subnormal: every finite value is a multiple of 2**quantum_exponent."""
        return self.min_exponent - self.mantissa_bits

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value."""
        return (self.max_code >> self.mantissa_bits) - self.bias

    @property
    def max_code(self) -> int:
        """Code of the largest finite value."""
        top = ((1 << self.exponent_bits) - 1) << self.mantissa_bits
        return top - 1 if self.specials is Specials.IEEE else top | ((1 << self.mantissa_bits) - 2)

    @property
    def max_value(self) -> float:
        """The largest finite value."""
        mantissa = self.max_code & ((1 << self.mantissa_bits) - 1)
        return float((1 << self.mantissa_bits) + mantissa) * 2.0 ** (self.max_exponent - self.mantissa_bits)

    @property
    def sign_code(self) -> int:
        """The sign bit, which is also the code of −0."""
        return 1 << (self.width - 1)

    @property
    def infinity_code(self) -> int | None:
        """Code of +infinity; None where the format has none."""
        return self.max_code + 1 if self.specials is Specials.IEEE else None

    @property
    def nan_code(self) -> int:
        """Code of the NaN that arithmetic makes."""
        if self.specials is Specials.OCP_FN:
            return self.sign_code - 1
        return (self.max_code + 1) | (1 << (self.mantissa_bits - 1))

    @property
    def code_dtype(self) -> type[np.unsignedinteger]:
        """uint8 or uint16."""
        return np.uint8 if self.width <= 8 else np.uint16

    @cached_property
    def value_dtype(self) -> type[np.floating]:
        """float32 where it holds every value exactly, else float64."""
        return np.float32 if self.quantum_exponent >= -149 and self.max_exponent <= 127 else np.float64

    def replace(self, **changes: object) -> FloatFormat:
        """The same format with some fields changed, e.g. ``FP16.replace(saturate=True)``."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def check_codes(self, codes: ArrayLike, name: str = "codes") -> NDArray[np.unsignedinteger]:
        """`codes` as an array of this format's code dtype, or a TypeError or ValueError that says why not."""
        array = np.asarray(codes)
        if array.dtype.kind not in "ui":
            raise TypeError(
                f"{name} has dtype {array.dtype}, but codes are unsigned integers; {self}.encode makes them"
            )
        if array.dtype != self.code_dtype or self.width not in (8, 16):
            low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
            if low < 0 or high >= 1 << self.width:
                worst, limit = low if low < 0 else high, (1 << self.width) - 1
                raise ValueError(f"{name} holds {worst}, but codes of {self} are 0 … {limit}")
        return array.astype(self.code_dtype, copy=False)

    @cached_property
    def _table(self) -> NDArray[np.floating]:
        codes = np.arange(1 << self.width)
        exponent = (codes >> self.mantissa_bits) & ((1 << self.exponent_bits) - 1)
        mantissa = codes & ((1 << self.mantissa_bits) - 1)
        significand = mantissa + (np.minimum(exponent, 1) << self.mantissa_bits)
        values = np.ldexp(significand.astype(np.float64), np.maximum(exponent, 1) - 1 + self.quantum_exponent)
        magnitude = codes & (self.sign_code - 1)
        values[magnitude > self.max_code] = np.nan
        if self.infinity_code is not None:
            values[magnitude == self.infinity_code] = np.inf
        return np.where(codes & self.sign_code, -values, values).astype(self.value_dtype)

    def decode(self, codes: ArrayLike) -> NDArray[np.floating]:
        """The values of `codes`: an array of `value_dtype` and the same shape."""
        return self._table[self.check_codes(codes)]

    def encode(
        self,
        values: ArrayLike,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        *,
        random: ArrayLike | None = None,
        random_bits: int = RANDOM_BITS,
        saturate: bool | None = None,
    ) -> NDArray[np.unsignedinteger]:
        """Round float32 or float64 `values` into the format, once.

        `random` holds one integer of `random_bits` bits for each value (stochastic rounding only).
        Overflow is judged after rounding with an unbounded exponent: nearest and stochastic go to infinity
        (NaN in OCP-fn), toward zero stops at the largest finite value; `saturate` stops all of them there.
        """
        rounding = Rounding(rounding)
        saturate = self.saturate if saturate is None else saturate
        x = np.asarray(values, dtype=np.float64)
        magnitude = np.abs(np.where(np.isfinite(x), x, 0.0))
        exponent = np.maximum(np.frexp(magnitude)[1] - 1, self.min_exponent)
        exponent = np.where(magnitude == 0, self.min_exponent, exponent)
        scaled = np.ldexp(magnitude, self.mantissa_bits - exponent)
        if rounding is Rounding.NEAREST_EVEN:
            significand = np.rint(scaled)
        elif rounding is Rounding.TOWARD_ZERO:
            significand = np.floor(scaled)
        else:
            if random is None:
                raise ValueError("stochastic rounding needs random: draw it from a golden.lfsr.LFSR")
            drawn = np.asarray(random, dtype=np.float64)
            significand = np.floor(np.ldexp(np.floor(np.ldexp(scaled, random_bits)) + drawn, -random_bits))
        code = np.minimum(
            ((exponent - self.min_exponent) << self.mantissa_bits) + significand, 1 << 17
        ).astype(np.int64)
        infinity = self.infinity_code if self.infinity_code is not None else self.nan_code
        over = self.max_code if saturate or rounding is Rounding.TOWARD_ZERO else infinity
        code = np.where(code > self.max_code, over, code)
        code = np.where(np.isinf(x), self.max_code if saturate else infinity, code)
        code = np.where(np.signbit(x), code | self.sign_code, code)
        nan = np.isnan(x) | ((self.infinity_code is None) & ((code & (self.sign_code - 1)) > self.max_code))
        return np.where(nan, self.nan_code, code).astype(self.code_dtype)

    def round(
        self, values: ArrayLike, rounding: Rounding | str = Rounding.NEAREST_EVEN, **options: object
    ) -> NDArray[np.floating]:
        """`decode(encode(values))`: the values moved onto the format's grid."""
        return self.decode(self.encode(values, rounding, **options))  # type: ignore[arg-type]

    def __str__(self) -> str:
        bias = "" if self.bias == (1 << (self.exponent_bits - 1)) - 1 else f"b{self.bias}"
        specials = "fn" if self.specials is Specials.OCP_FN else ""
        return f"e{self.exponent_bits}m{self.mantissa_bits}{bias}{specials}"


#: Wang et al.'s (1,5,2), code for code OCP E5M2; narrowing to it saturates.
FP8 = FloatFormat(5, 2, saturate=True)
#: Wang et al.'s (1,6,9); an accumulator overflows to infinity.
FP16 = FloatFormat(6, 9)
#: OCP FP8 E4M3: no infinity, largest value 448.
E4M3 = FloatFormat(4, 3, specials=Specials.OCP_FN, saturate=True)
#: IEEE 754 binary16.
HALF = FloatFormat(5, 10)
#: bfloat16.
BFLOAT16 = FloatFormat(8, 7)


def hfp8(bias: int = 7) -> FloatFormat:
    """The forward format 1-4-3 of hybrid FP8 training (Sun et al. 2019); its bias is a parameter."""
    return FloatFormat(4, 3, bias=bias, saturate=True)
