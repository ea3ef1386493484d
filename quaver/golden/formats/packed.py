"""Small floats that spend their top codes on numbers: the FNUZ pair, P3109's, and the elements of MX."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.float_environment import standard_floats
from quaver.golden.formats.float import FloatFormat
from quaver.golden.formats.format import Format, as_draws, as_floats
from quaver.golden.rounding import RANDOM_BITS, Rounding, round_integers
from quaver.golden.validation import Choice, as_integer, set_flags, set_integers


class CodeSpace(Choice):
    """What is no number."""

    FNUZ = "fnuz"
    """One zero; the code of −0 is the one NaN; no infinity (and P3109's finite domain)."""
    P3109 = "p3109"
    """The same, and the largest magnitude is infinity (IEEE P3109 interim report 4.0, arXiv 2606.04028, its
    extended domain)."""
    MX = "mx"
    """Nothing: two zeros, no NaN, no infinity (OCP Microscaling Formats 1.0, §5.3)."""


#: Bits of a part of a step that are looked at: more than random ones, and one more for all below.
_FINER = 48

_PATTERN = re.compile(
    r"(?:e(?P<e>[0-9]+)m(?P<m>[0-9]+)(?P<space>fnuz|mx)|binary(?P<k>[0-9]+)p(?P<p>[0-9]+)(?P<finite>f?))"
    r"(?P<sat>sat)?"
)


@dataclass(frozen=True)
class PackedFormat(Format):
    """A float of at most 16 bits whose top exponent holds numbers, with gradual underflow.

    Parameters
    ----------
    exponent_bits, mantissa_bits
        Widths of the fields; sign, exponent, mantissa from the top bit down.
    space
        A `CodeSpace`. It gives the exponent bias as well: 2**(exponent_bits − 1), of MX one less.
    saturate
        What `encode` does with overflow and infinity: the largest finite value of the same sign when true;
        infinity, or NaN where there is none, when false. MX's elements saturate always.

    Raises
    ------
    TypeError, ValueError
        A field of another kind; exponent_bits outside 1 … 8, mantissa_bits below 0, or more than 16 bits.

    Notes
    -----
    Overflow is judged after rounding; toward zero never leaves the finite values. A negative value that
    rounds to zero becomes the one zero, of MX −0. NaN stays NaN, and is a ValueError where it has no code.
    Without mantissa bits, as in P3109's binary8p1, magnitudes are powers of two, and of a tie nearest takes
    the even code.
    """

    exponent_bits: int
    mantissa_bits: int
    space: CodeSpace = CodeSpace.FNUZ
    saturate: bool = False

    syntax: ClassVar = "e4m3fnuz, binary8p4 (P3109's; binary8p4f without infinity) or e2m1mx"

    def __post_init__(self) -> None:
        set_integers(self, "exponent_bits", "mantissa_bits")
        set_flags(self, "saturate")
        object.__setattr__(self, "space", CodeSpace(self.space))
        if not 1 <= self.exponent_bits <= 8:
            raise ValueError(f"exponent_bits is {self.exponent_bits}, but such a format has 1 to 8 of them")
        if self.mantissa_bits < 0 or self.width > 16:
            raise ValueError(
                f"mantissa_bits is {self.mantissa_bits}, but such a format has at least 0, and at most 16 "
                f"bits in all"
            )
        if self.space is CodeSpace.MX and not self.saturate:
            object.__setattr__(self, "saturate", True)

    @property
    def width(self) -> int:
        """Bits of a code."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def precision(self) -> int:
        """Bits of the significand, the hidden one included."""
        return self.mantissa_bits + 1

    @property
    def bias(self) -> int:
        """Exponent bias."""
        return (1 << self.exponent_bits - 1) - (self.space is CodeSpace.MX)

    @property
    def sign_code(self) -> int:
        """The sign bit, which by itself is NaN, of MX −0."""
        return 1 << self.width - 1

    @property
    def max_code(self) -> int:
        """Code of the largest finite value."""
        return self.sign_code - 1 - (self.space is CodeSpace.P3109)

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value."""
        return (self.max_code >> self.mantissa_bits) - self.bias

    @property
    def max_value(self) -> float:
        """The largest finite value."""
        return float(self._magnitudes[self.max_code])

    @property
    def value_dtype(self) -> type[np.floating]:
        """float32."""
        return np.float32

    @cached_property
    def _wide(self) -> FloatFormat:
        """With one more exponent bit, in which the codes of all the magnitudes are the same."""
        return FloatFormat(self.exponent_bits + 1, self.mantissa_bits, self.bias)

    @cached_property
    def _magnitudes(self) -> NDArray[np.floating]:
        """What the codes without a sign are worth, were there no infinity."""
        codes = np.arange(self.sign_code)
        if self.mantissa_bits:
            return self._wide.decode(codes)
        return np.where(codes, np.exp2(codes - float(self.bias)), 0.0).astype(np.float32)

    @cached_property
    def _table(self) -> NDArray[np.floating]:
        codes = np.arange(1 << self.width)
        magnitude = codes & (self.sign_code - 1)
        values = np.where(magnitude > self.max_code, np.inf, self._magnitudes[magnitude])
        values = np.where(codes & self.sign_code, -values, values).astype(np.float32)
        if self.space is not CodeSpace.MX:
            values[self.sign_code] = np.nan
        return values

    def decode(self, codes: ArrayLike) -> NDArray[np.floating]:
        """The values of `codes`: float32, of the same shape."""
        return self._table[self.check_codes(codes)]

    @standard_floats
    def encode(
        self,
        values: ArrayLike,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        *,
        random: ArrayLike | None = None,
        random_bits: int = RANDOM_BITS,
    ) -> NDArray[np.unsignedinteger]:
        """Round `values` into the format, once; parameters and errors are those of `Format.encode`."""
        rounding, random_bits = Rounding(rounding), as_integer(random_bits, "random_bits")
        x = as_floats(values)
        if self.mantissa_bits:
            wide = self._wide
            code = wide.encode(x, rounding, random=random, random_bits=random_bits)
            magnitude = code & (wide.sign_code - 1)
        else:
            magnitude = self._powers(x, rounding, random, random_bits)
        negative, nan, infinite = np.signbit(x), np.isnan(x), np.isinf(x)
        if self.space is CodeSpace.MX and nan.any():
            raise ValueError(f"values hold NaN, but {self} has no code for it")
        beyond = magnitude > self.max_code
        limited = self.saturate | ((rounding is Rounding.TOWARD_ZERO) & ~infinite)
        magnitude = np.where(beyond & limited, self.max_code, magnitude)
        if self.space is CodeSpace.P3109:
            magnitude = np.where(beyond & ~limited, self.max_code + 1, magnitude)
        else:
            nan |= beyond & ~limited
        signed = np.where(negative, magnitude | self.sign_code, magnitude)
        if self.space is not CodeSpace.MX:
            signed = np.where(nan, self.sign_code, np.where(magnitude == 0, 0, signed))
        return signed.astype(self.code_dtype)

    def _powers(
        self, x: NDArray[np.floating], rounding: Rounding, random: ArrayLike | None, random_bits: int
    ) -> NDArray[np.int64]:
        """Codes of the magnitudes without mantissa bits: a binade is a step, and so is what lies below."""
        drawn = as_draws(random, random_bits, x.shape, rounding)
        finite = np.where(np.isfinite(x), np.abs(x), 0.0).astype(np.float64)
        significands, exponents = np.frexp(finite)  # 1/2 … 1
        codes = exponents - 1 + self.bias
        normal = (codes >= 1) & (finite > 0)
        below = np.ldexp(np.where(normal, 0.0, finite), self.bias - 1)  # in steps of the smallest
        part = np.where(normal, 2 * significands - 1, below)
        steps = np.ldexp(part, _FINER)
        integers = np.floor(steps).astype(np.int64)
        integers |= (steps != integers).astype(np.int64)  # what is lost below still breaks ties
        integers += np.where(normal, codes, 0).astype(np.int64) << _FINER
        rounded = round_integers(integers, _FINER, rounding, drawn, random_bits)
        return np.where(np.isinf(x), self.sign_code, rounded)

    @classmethod
    def parse(cls, name: str) -> Self | None:
        match = _PATTERN.fullmatch(name)
        if match is None:
            return None
        saturate = match["sat"] is not None
        if match["space"]:
            return cls(int(match["e"]), int(match["m"]), CodeSpace(match["space"]), saturate)
        width, precision = int(match["k"]), int(match["p"])
        space = CodeSpace.FNUZ if match["finite"] else CodeSpace.P3109
        return cls(width - precision, precision - 1, space, saturate)

    def __str__(self) -> str:
        sat = "sat" if self.saturate and self.space is not CodeSpace.MX else ""
        if self.space is CodeSpace.P3109:
            return f"binary{self.width}p{self.precision}{sat}"
        return f"e{self.exponent_bits}m{self.mantissa_bits}{self.space}{sat}"
