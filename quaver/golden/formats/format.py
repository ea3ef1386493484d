"""What every number format has, whatever its codes mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache, cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.rounding import RANDOM_BITS, Rounding
from quaver.golden.validation import as_integer


class Format(ABC):
    """A number format: codes, which are unsigned integers, and the value that each of them means.

    A format is a frozen dataclass of at most 32 bits, and ``parse(str(format)) == format``.
    """

    #: How names of such formats are written, for messages: "q6.10".
    syntax: ClassVar[str]

    @classmethod
    @abstractmethod
    def parse(cls, name: str) -> Self | None:
        """The format of this kind that a lower-case name means; None: it is no name of this kind."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Bits of a code."""

    @property
    @abstractmethod
    def value_dtype(self) -> type[np.floating]:
        """float32 where it holds every value exactly, else float64."""

    @property
    @abstractmethod
    def max_value(self) -> float:
        """The largest finite value."""

    @abstractmethod
    def decode(self, codes: ArrayLike) -> NDArray[np.floating]:
        """The values of `codes`: an array of `value_dtype` and the same shape."""

    @abstractmethod
    def encode(
        self,
        values: ArrayLike,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        *,
        random: ArrayLike | None = None,
        random_bits: int = RANDOM_BITS,
    ) -> NDArray[np.unsignedinteger]:
        """Round `values` into the format, once.

        Parameters
        ----------
        values
            Any shape and memory layout; float16, float32, float64, integers of at most 53 bits, or any number
            of ml_dtypes but the complex ones.
        rounding
            The stochastic ones want `random`, the others refuse it.
        random, random_bits
            One integer of R = `random_bits` bits (1 … 32) for each value, in an array of the same shape.

        Returns
        -------
        ndarray of `code_dtype`, C-contiguous, the shape of `values`
            The class's notes define every special value.

        Raises
        ------
        TypeError
            `values` or `random` have a dtype that is not listed.
        ValueError
            An integer beyond ±2**53; `random` missing, superfluous, of another shape or out of range; a value
            for which the format has no code.
        """

    @cached_property
    def code_dtype(self) -> type[np.unsignedinteger]:
        """uint8, uint16 or uint32: the smallest that holds a code."""
        return np.uint8 if self.width <= 8 else np.uint16 if self.width <= 16 else np.uint32

    def check_codes(self, codes: ArrayLike, name: str = "codes") -> NDArray[np.unsignedinteger]:
        """`codes` as an array of this format's code dtype, or a TypeError or ValueError that says why not."""
        array = np.asarray(codes)
        if array.dtype.kind not in "ui":
            raise TypeError(
                f"{name} has dtype {array.dtype}, but codes are unsigned integers; {self}.encode makes them"
            )
        if array.dtype != self.code_dtype or self.width not in (8, 16, 32):
            low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
            if low < 0 or high >= 1 << self.width:
                worst, limit = low if low < 0 else high, (1 << self.width) - 1
                raise ValueError(f"{name} holds {worst}, but codes of {self} are 0 … {limit}")
        return array.astype(self.code_dtype, copy=False)

    def holds(self, narrow: Format) -> bool:
        """Whether every finite value of `narrow` is a value of this format."""
        return _holds(self, narrow)

    def round(
        self, values: ArrayLike, rounding: Rounding | str = Rounding.NEAREST_EVEN, **options: object
    ) -> NDArray[np.floating]:
        """`decode(encode(values))`: the values moved onto the format's grid."""
        return self.decode(self.encode(values, rounding, **options))  # type: ignore[arg-type]

    def _numbers(
        self, values: ArrayLike, rounding: Rounding | str, random: ArrayLike | None, random_bits: int
    ) -> tuple[NDArray[np.float64], Rounding, NDArray[np.unsignedinteger] | None, int]:
        """What `encode` was given, checked, of a format that has no code for NaN: values, rounding, draws if
        it takes any, and their bits."""
        rounding, random_bits = Rounding(rounding), as_integer(random_bits, "random_bits")
        x = as_floats(values)
        drawn = as_draws(random, random_bits, x.shape, rounding)
        if np.isnan(x).any():
            raise ValueError(f"values hold NaN, but {self} has no code for it")
        return x.astype(np.float64), rounding, drawn, random_bits


@cache
def _holds(wide: Format, narrow: Format) -> bool:
    if wide == narrow:
        return True
    if narrow.width > wide.width:
        return False  # it has more values
    values = narrow.decode(np.arange(1 << narrow.width, dtype=narrow.code_dtype))
    values = values[np.isfinite(values)]
    return bool(np.array_equal(wide.round(values), values))


def as_floats(values: ArrayLike) -> NDArray[np.floating]:
    """`values` as a C-contiguous array of float32 or float64 that holds them exactly."""
    array = np.asarray(values)
    if array.dtype == np.float32:
        return np.asarray(array, order="C")
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "f" and size <= 8:
        wanted = np.float64 if size == 8 else np.float32
    elif kind in "iu":
        wanted = np.float64
        if size == 8 and array.size and max(int(array.max()), -int(array.min())) > 1 << 53:
            raise ValueError(
                "values holds an integer beyond ±2**53, which no float64 may hold; scale it down"
            )
    elif kind == "V" and not issubclass(array.dtype.type, np.void) and np.can_cast(array.dtype, np.float32):
        wanted = np.float32  # ml_dtypes' numbers
    else:
        raise TypeError(
            f"values have dtype {array.dtype}, but they must be float16, 32, 64, integer or of ml_dtypes"
        )
    return cast_to(array, wanted)


def cast_to(array: NDArray[np.generic], dtype: type[np.floating]) -> NDArray[np.floating]:
    """`array` as a C-contiguous array of `dtype`."""
    if array.dtype == dtype:
        return np.asarray(array, order="C")
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
        return np.asarray(array, dtype=dtype, order="C")


def as_variant_a(
    rounding: Rounding,
    values: NDArray[np.floating],
    random: NDArray[np.unsignedinteger],
    random_bits: int,
    last: int,
    precision: int,
) -> tuple[NDArray[np.floating], NDArray[np.unsignedinteger], int]:
    """Values and random bits with which stochastic rounding gives what its variant B or C gives.

    A float's last kept bit is that of `precision` bits, or 2**last if that is higher; fixed point has a
    precision of 0 bits.
    """
    check_random_bits(rounding, random_bits)
    if rounding is Rounding.STOCHASTIC_B:
        return values, (2 * random.astype(np.uint32) + 1).astype(np.uint32), random_bits + 1
    wide = values.astype(np.float64)
    _, exponents = np.frexp(wide)
    steps = np.maximum(exponents - precision, last) if precision else np.full(wide.shape, last)
    steps = steps - random_bits
    nearest = np.ldexp(np.rint(np.ldexp(wide, -steps)), steps)  # of few bits, which float64 holds
    return np.where(np.isfinite(wide), nearest, wide), random, random_bits


def check_random_bits(rounding: Rounding, random_bits: int) -> None:
    """ValueError: `encode` rounds by no draws of so many bits."""
    if not 1 <= random_bits <= 32:
        raise ValueError(f"random_bits is {random_bits}, but a draw takes 1 … 32")
    if rounding is Rounding.STOCHASTIC_B and random_bits == 32:
        raise ValueError("random_bits is 32, but stochastic-b looks at one more; take 1 … 31")


def as_draws(
    random: ArrayLike | None, random_bits: int, shape: tuple[int, ...], rounding: Rounding
) -> NDArray[np.unsignedinteger] | None:
    """`random` as C-contiguous uint16 or uint32 of `shape`, checked; None when the rounding takes none."""
    if not rounding.draws:
        if random is not None:
            raise ValueError(f"random was given, but {rounding} rounding takes none; leave it out")
        return None
    if random is None:
        raise ValueError("stochastic rounding needs random: draw it from a quaver.golden.lfsr.LFSR")
    if not 1 <= random_bits <= 32:
        raise ValueError(f"random_bits is {random_bits}, but stochastic rounding takes 1 … 32")
    array = np.asarray(random)
    if array.dtype.kind not in "ui":
        raise TypeError(f"random has dtype {array.dtype}, but it must be integers of {random_bits} bits")
    if array.shape != shape:
        raise ValueError(
            f"random has shape {array.shape}, but values have {shape}; give one draw for each value"
        )
    if array.size and (array.dtype.kind == "i" or 8 * array.dtype.itemsize > random_bits):
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= 1 << random_bits:
            worst, limit = low if low < 0 else high, (1 << random_bits) - 1
            raise ValueError(f"random holds {worst}, but {random_bits} random bits hold 0 … {limit}")
    return np.asarray(array, dtype=np.uint16 if random_bits <= 16 else np.uint32, order="C")
