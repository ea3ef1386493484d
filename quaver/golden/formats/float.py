"""Binary floating point by IEEE 754's rules at any small width, and the variants in use."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.float_environment import standard_floats
from quaver.golden.formats.format import (
    Format,
    as_draws,
    as_floats,
    as_variant_a,
    cast_to,
    check_random_bits,
)
from quaver.golden.rounding import RANDOM_BITS, Rounding
from quaver.golden.validation import Choice, as_integer, set_flags, set_integers


class Specials(Choice):
    """What the top of the code space means."""

    IEEE = "ieee"
    """The top exponent holds infinity (mantissa 0) and NaN (any other mantissa)."""
    OCP_FN = "fn"
    """The all-ones magnitude is NaN, there is no infinity, all other codes are numbers (OCP FP8 E4M3)."""
    DLFLOAT = "dl"
    """As OCP_FN at the top, where NaN stands for infinity too. At the bottom there are no subnormals: the
    exponent field 0 is one like the others, but the code 0 is 0. Nearest takes ties away from zero."""


_PATTERN = re.compile(
    r"(?:e(?P<e>[0-9]+)m(?P<m>[0-9]+)|1-(?P<e2>[0-9]+)-(?P<m2>[0-9]+))"
    r"(?:b(?P<bias>-?[0-9]+))?(?P<specials>fn|dl|ieee)?(?P<sat>sat)?"
)


@dataclass(frozen=True)
class FloatFormat(Format):
    """A binary floating-point format of at most 32 bits, by IEEE 754's rules at other widths.

    Parameters
    ----------
    exponent_bits, mantissa_bits
        Widths of the fields; sign, exponent, mantissa from the top bit down.
    bias
        Exponent bias; 2**(exponent_bits − 1) − 1 when left out.
    specials
        `Specials.IEEE` (infinity and NaN in the top exponent), `Specials.OCP_FN` (one NaN, no infinity) or
        `Specials.DLFLOAT` (the same, and no subnormals).
    saturate
        What `encode` does with overflow and infinity unless told otherwise: the largest finite value of the
        same sign when true, infinity (or NaN where there is no infinity) when false. NaN is always kept.

    Raises
    ------
    TypeError, ValueError
        A field is of another kind, or they do not fit: exponent_bits in 2 … 10 (9 in DLFloat),
        mantissa_bits ≥ 1, at most 32 bits with the sign, and a bias that puts every exponent in −960 … 960.

    Notes
    -----
    Every special value, in both directions:

    - Subnormals are gradual: below 2**min_exponent the spacing stays 2**quantum_exponent. DLFloat has none: a
      magnitude that rounds to at most 2**min_exponent, if exponents had no lower bound, becomes 0.
    - Zeros keep their signs, and a negative value that rounds to zero becomes −0.
    - The one NaN that `encode` makes has sign 0, the top exponent, and only the top mantissa bit set (IEEE),
      or sign 0 and all ones (OCP-fn). `decode` takes every NaN code, and its NaN has no meaning in its sign.
    - Overflow is judged after rounding as if the exponent had no upper bound. Saturating, it becomes the
      largest finite value in every rounding. Otherwise nearest and stochastic make it infinity (the canonical
      NaN in OCP-fn), while toward zero never leaves the finite values.
    - Infinity stays infinity (the canonical NaN in OCP-fn) in every rounding; saturating, it becomes the
      largest finite value.
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int = None  # type: ignore[assignment]  # resolved below, so that equal formats compare equal
    specials: Specials = Specials.IEEE
    saturate: bool = False

    syntax: ClassVar = (
        "widths as in e6m9 or 1-6-9, that a bias (e4m3b11), fn (OCP specials) and sat (saturating) "
        "may follow in this order"
    )

    def __post_init__(self) -> None:
        set_integers(self, "exponent_bits", "mantissa_bits")
        set_flags(self, "saturate")
        if self.bias is not None:
            set_integers(self, "bias")
        e, m = self.exponent_bits, self.mantissa_bits
        most = 9 if self.specials == Specials.DLFLOAT else 10
        if not 2 <= e <= most:
            raise ValueError(f"exponent_bits is {e}, but a format has 2 to {most} of them")
        if m < 1:
            raise ValueError(f"mantissa_bits is {m}, but a format has at least 1, or NaN would have no code")
        if 1 + e + m > 32:
            raise ValueError(
                f"1 + {e} + {m} = {1 + e + m} bits, but a format fits 32; take fewer mantissa bits"
            )
        if self.bias is None:
            object.__setattr__(self, "bias", (1 << (e - 1)) - 1)
        object.__setattr__(self, "specials", Specials(self.specials))
        if self.quantum_exponent < -960 or self.max_exponent > 960:
            raise ValueError(
                f"bias is {self.bias}, but every value must be a float64: exponents in −960 … 960"
            )

    @cached_property
    def width(self) -> int:
        """Bits of a code."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def precision(self) -> int:
        """Bits of the significand, the hidden one included."""
        return self.mantissa_bits + 1

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value (DLFloat: of the power of two below it, whose code is 0)."""
        return (0 if self.specials is Specials.DLFLOAT else 1) - self.bias

    @property
    def quantum_exponent(self) -> int:
        """Exponent of the step between the smallest values: all finite ones are multiples of
        2**quantum_exponent."""
        return self.min_exponent - self.mantissa_bits

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value."""
        return (self.max_code >> self.mantissa_bits) - self.bias

    @property
    def ties_away(self) -> bool:
        """Whether nearest takes a tie away from zero, as in DLFloat, and not to the value whose last bit is
        0."""
        return self.specials is Specials.DLFLOAT

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
        if self.specials is not Specials.IEEE:
            return self.sign_code - 1
        return (self.max_code + 1) | (1 << (self.mantissa_bits - 1))

    @cached_property
    def value_dtype(self) -> type[np.floating]:
        """float32 where it holds every value exactly, else float64."""
        fits = self.precision <= 24 and self.quantum_exponent >= -149 and self.max_exponent <= 127
        return np.float32 if fits else np.float64

    def replace(self, **changes: object) -> FloatFormat:
        """The same format with some fields changed, e.g. ``FP16.replace(saturate=True)``."""
        return replace(self, **changes)  # type: ignore[arg-type]

    @cached_property
    def _table(self) -> NDArray[np.floating]:
        """The value of every code."""
        return self._values(np.arange(1 << self.width, dtype=np.uint32))

    @cached_property
    def _gradual(self) -> FloatFormat:
        """For DLFloat, a format with subnormals and one more exponent bit, in which the codes of the same
        numbers are higher by 2**mantissa_bits."""
        return FloatFormat(self.exponent_bits + 1, self.mantissa_bits, self.bias + 1)

    def _values(self, codes: NDArray[np.uint32]) -> NDArray[np.floating]:
        """The values of contiguous codes, computed."""
        if self.specials is Specials.DLFLOAT:
            magnitude = codes & (self.sign_code - 1)
            higher = np.where(magnitude, magnitude + (1 << self.mantissa_bits), 0)
            numbers = self._gradual.decode((codes & self.sign_code) << 1 | higher)
            return np.where(magnitude > self.max_code, np.nan, numbers).astype(self.value_dtype)
        from quaver.golden.kernels import cast  # compiles: not before something is computed

        values = np.empty(codes.shape, self.value_dtype)
        fields = self.sign_code, self.mantissa_bits, self.quantum_exponent
        arrays = codes.reshape(-1), values.reshape(-1)
        cast.in_blocks(cast.decode, arrays, *fields, self.max_code, self.infinity_code or 0)
        return values

    @standard_floats
    def decode(self, codes: ArrayLike) -> NDArray[np.floating]:
        """The values of `codes`: an array of `value_dtype` and the same shape."""
        return self.values_of(np.asarray(self.check_codes(codes), order="C"))

    def values_of(self, codes: NDArray[np.unsignedinteger]) -> NDArray[np.floating]:
        """`decode` of C-contiguous codes that were checked before, in a standard environment."""
        from quaver.golden.kernels import cast

        if self.width > 16:
            return self._values(codes)
        values = np.empty(codes.shape, self.value_dtype)
        if self.words is None:
            cast.in_blocks(cast.look_up, (codes.reshape(-1), values.reshape(-1)), self._table)
        else:
            words = values.view(np.uint32)
            cast.in_blocks(cast.decode_float32, (codes.reshape(-1), words.reshape(-1)), *self.words)
        return values

    @cached_property
    def words(self) -> tuple[Any, ...] | None:
        """What `quaver.golden.kernels.cast.decode_float32` takes after its arrays; None: look values up."""
        normal = self.value_dtype is np.float32 and self.min_exponent >= -126 and self.width <= 16
        if not normal or self.specials is Specials.DLFLOAT:
            return None
        rebase = (127 - self.bias) << 23 & 0xFFFFFFFF
        quantum = np.float32(2.0**self.quantum_exponent)
        return self.width, self.mantissa_bits, rebase, quantum, self.max_code, self.infinity_code or 0

    @standard_floats
    def encode(
        self,
        values: ArrayLike,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        *,
        random: ArrayLike | None = None,
        random_bits: int = RANDOM_BITS,
        saturate: bool | None = None,
    ) -> NDArray[np.unsignedinteger]:
        """Round `values` into the format, once, as `Format.encode` does.

        Parameters
        ----------
        saturate
            Whether overflow and infinity become the largest finite value; None: as the format says.
        """
        from quaver.golden.kernels import cast

        rounding, x, drawn = Rounding(rounding), as_floats(values), None
        if rounding.draws or random is not None:
            random_bits = as_integer(random_bits, "random_bits")
            drawn = as_draws(random, random_bits, x.shape, rounding)
        if drawn is not None and rounding is not Rounding.STOCHASTIC:
            self.check_rounding(rounding, random_bits)
            grid = self.quantum_exponent, self.precision
            x, drawn, random_bits = as_variant_a(rounding, x, drawn, random_bits, *grid)
            rounding = Rounding.STOCHASTIC
        random_bits = random_bits if rounding is Rounding.STOCHASTIC else 0
        if x.dtype == np.float32 and not (self._in_float32 and self.precision + random_bits <= 31):
            x = cast_to(x, np.float64)
        codes = np.empty(x.shape, self.code_dtype)
        bits = x.view(np.uint32 if x.dtype == np.float32 else np.uint64)
        arrays = bits.reshape(-1), codes.reshape(-1), None if drawn is None else drawn.reshape(-1)
        how = self.encoding(
            x.dtype.type, rounding, random_bits, self.saturate if saturate is None else saturate
        )
        cast.in_blocks(cast.encode, arrays, *how)
        return codes

    def check_rounding(self, rounding: Rounding, random_bits: int) -> None:
        """ValueError: `encode` does not round so, with so many random bits where it draws any."""
        check_random_bits(rounding, random_bits)
        if rounding.looks_further and self.specials is Specials.DLFLOAT:
            raise ValueError(f"rounding is {rounding}, but {self} takes nearest, truncate or stochastic")

    def encoding(
        self, dtype: type[np.floating], rounding: Rounding, random_bits: int, saturate: bool
    ) -> tuple[Any, ...]:
        """What `quaver.golden.kernels.cast.encode` takes after its arrays, for values of `dtype`."""
        key = dtype, rounding, random_bits, saturate
        if key not in self._encodings:
            stored, bias = np.finfo(dtype).nmant, np.finfo(dtype).maxexp - 1
            missing = 1 << self.mantissa_bits if self.specials is Specials.DLFLOAT else 0
            infinite = self.max_code if saturate else self.max_code + 1  # the latter is infinity, or NaN
            signed = self.max_code if self.infinity_code is None else self.infinity_code
            shape = stored, self.width, self.mantissa_bits, self.min_exponent + bias, missing
            magic = None
            if rounding is Rounding.NEAREST_EVEN and self.ties_away:
                random_bits = 1  # half a step, then cut
            elif rounding is Rounding.NEAREST_EVEN:
                magic = dtype(2.0 ** (self.quantum_exponent + stored))
            fields = *shape, infinite, self.max_code, signed, self.nan_code
            self._encodings[key] = magic, random_bits, fields
        return self._encodings[key]

    @cached_property
    def _encodings(self) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        return {}

    @cached_property
    def _in_float32(self) -> bool:
        """Whether float32's words hold all that rounding a float32 makes, with up to 31 bits to look at: else
        it goes by way of float64."""
        in_range = self.min_exponent >= -126 and self.max_exponent <= 127 and self.quantum_exponent <= 104
        return in_range and self.precision < 24

    def holds(self, narrow: Format) -> bool:
        """See `Format.holds`; two floats with subnormals are compared without looking at every value."""
        if not isinstance(narrow, FloatFormat) or Specials.DLFLOAT in (self.specials, narrow.specials):
            return super().holds(narrow)
        return (
            narrow.precision <= self.precision
            and narrow.quantum_exponent >= self.quantum_exponent
            and narrow.max_value <= self.max_value
        )

    @classmethod
    def parse(cls, name: str) -> Self | None:
        match = _PATTERN.fullmatch(name)
        if match is None:
            return None
        part = match.groupdict()
        return cls(
            int(part["e"] or part["e2"]),
            int(part["m"] or part["m2"]),
            bias=None if part["bias"] is None else int(part["bias"]),  # type: ignore[arg-type]
            specials=Specials(part["specials"] or "ieee"),
            saturate=part["sat"] is not None,
        )

    def __str__(self) -> str:
        bias = "" if self.bias == (1 << (self.exponent_bits - 1)) - 1 else f"b{self.bias}"
        name = f"e{self.exponent_bits}m{self.mantissa_bits}{bias}"
        if self.specials is not Specials.IEEE:
            name += self.specials
        elif name == "e4m3":  # by itself the name of OCP's
            name += "ieee"
        return name + ("sat" if self.saturate else "")


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
#: DLFloat (Agrawal et al., ARITH 2019): (1,6,9) without subnormals and with one code for NaN and infinity.
#: The paper's abstract names the widths and what is left out; the codes are those of IBM's NNP-data-type-1,
#: as onnx-mlir's public conversions have them: bias 31, 2**-31 without a code, ties away from zero.
DLFLOAT = FloatFormat(6, 9, specials=Specials.DLFLOAT)
#: DLFloat's 8-bit companion, 1-4-3 with a bias of 7, in the same manner: no subnormals, one code for NaN.
#: IBM's Spyre takes OCP E4M3 tensors as it; of E4M3's 256 codes, 16 mean something else on a device
#: (torch-spyre #3027): as many as E4M3 has subnormals and NaN. Narrowing to it saturates.
DL8 = FloatFormat(4, 3, specials=Specials.DLFLOAT, saturate=True)
#: IEEE 754 binary32.
FP32 = FloatFormat(8, 23)


def hfp8(bias: int = 7) -> FloatFormat:
    """The forward format 1-4-3 of hybrid FP8 training (Sun et al. 2019); its bias is a parameter."""
    return FloatFormat(4, 3, bias=bias, saturate=True)
