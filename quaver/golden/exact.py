"""The definition of the numbers in plain integers and fractions: slow, obvious, and the last word.

An exact value is a `Fraction`, or one of the floats +0.0, −0.0, ±inf, nan (which a Fraction cannot be).
Everything fast, in golden and in RTL, is held to the functions below.
"""

from __future__ import annotations

from fractions import Fraction
from math import copysign, inf, isinf, isnan, isqrt, nan

from quaver.golden.formats import FloatFormat, Specials
from quaver.golden.rounding import RANDOM_BITS, Rounding, round_magnitude

Exact = Fraction | float


def _negative(x: Exact) -> bool:
    return x < 0 if isinstance(x, Fraction) else copysign(1.0, x) < 0


def decode(fmt: FloatFormat, code: int) -> Exact:
    """What one code means."""
    sign = -1 if code & fmt.sign_code else 1
    magnitude = code & (fmt.sign_code - 1)
    if magnitude == fmt.infinity_code:
        return sign * inf
    if magnitude > fmt.max_code:
        return nan
    exponent, mantissa = magnitude >> fmt.mantissa_bits, magnitude & ((1 << fmt.mantissa_bits) - 1)
    if fmt.specials is Specials.DLFLOAT:
        significand = mantissa + (1 << fmt.mantissa_bits) if magnitude else 0
        power = fmt.quantum_exponent + exponent
    elif exponent == 0:
        significand, power = mantissa, fmt.quantum_exponent
    else:
        significand, power = mantissa + (1 << fmt.mantissa_bits), fmt.quantum_exponent + exponent - 1
    return sign * significand * Fraction(2) ** power if significand else sign * 0.0


def encode(
    fmt: FloatFormat,
    x: Exact,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    random: int = 0,
    random_bits: int = RANDOM_BITS,
    saturate: bool | None = None,
) -> int:
    """The code of an exact value, rounded once. `quaver.golden.formats.FloatFormat` states the rules.

    What rounds to zero keeps its sign in every format, DLFloat's gap around zero included.
    """
    rounding = Rounding(rounding)
    saturate = fmt.saturate if saturate is None else saturate
    sign = fmt.sign_code if _negative(x) else 0
    infinity = fmt.nan_code if fmt.infinity_code is None else sign | fmt.infinity_code
    if not isinstance(x, Fraction):
        if isnan(x):
            return fmt.nan_code
        if isinf(x):
            return sign | fmt.max_code if saturate else infinity
        return sign
    length = x.numerator.bit_length() - x.denominator.bit_length()
    power = max(fmt.quantum_exponent, length - fmt.precision)  # this or one more
    while abs(x) >= Fraction(2) ** (power + fmt.precision):
        power += 1
    scaled = abs(x) / Fraction(2) ** power  # < 2**precision: units of the last kept bit
    # round_magnitude takes an integer. Everything below 64 more bits than it can use is one sticky bit.
    dropped = 64 + random_bits
    magnitude = scaled.numerator << dropped
    magnitude = magnitude // scaled.denominator | (magnitude % scaled.denominator != 0)
    dlfloat = fmt.specials is Specials.DLFLOAT
    if fmt.ties_away and rounding is Rounding.NEAREST_EVEN:
        significand = magnitude + (1 << dropped - 1) >> dropped
    else:
        significand = round_magnitude(magnitude, dropped, rounding, random, random_bits)
    code = ((power - fmt.quantum_exponent) << fmt.mantissa_bits) + significand
    if dlfloat:
        code = max(code - (1 << fmt.mantissa_bits), 0)
    if code > fmt.max_code:
        return sign | fmt.max_code if saturate or rounding is Rounding.TOWARD_ZERO else infinity
    return sign | code


def multiply(x: Exact, y: Exact) -> Exact:
    """The exact product; ∞·0 is NaN, and a zero takes the exclusive-or of the signs."""
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x * y
    unit_x, unit_y = (copysign(1.0, v) if isinstance(v, Fraction) else v for v in (x, y))
    return unit_x * unit_y


def add(x: Exact, y: Exact) -> Exact:
    """The exact sum; x + (−x) = +0, (−0) + (−0) = −0, ∞ − ∞ is NaN."""
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x + y or 0.0
    if isinstance(x, Fraction) or isinstance(y, Fraction):
        finite, other = (x, y) if isinstance(x, Fraction) else (y, x)
        return finite if other == 0 else other
    return x + y


def divide(x: Exact, y: Exact) -> Exact:
    """The exact quotient; 0/0 and ∞/∞ are NaN, x/0 is infinite."""
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x / y
    if y == 0 or (isinstance(y, float) and isinf(y)):
        inverse: Exact = copysign(0.0 if y else inf, y)
        return multiply(x, inverse)
    return multiply(x, y)  # ±0, ±∞ or NaN over a finite number, or anything over NaN: the same with y as 1/y


def square_root(x: Exact) -> Exact:
    """√x; √−0 = −0, and NaN of what is negative.

    An irrational root is cut 2**-200 below its first bit and ends in a 1 there: no rounding can tell it from
    the root itself.
    """
    if not isinstance(x, Fraction):
        return nan if x < 0 else x
    if x < 0:
        return nan
    # x·4**shift is large enough that its root has 200 bits before the point.
    shift = 200 + max(0, x.denominator.bit_length() - x.numerator.bit_length())
    scaled = x * 4**shift
    root = isqrt(scaled.numerator // scaled.denominator)
    exactly = root * root == scaled
    return (root + (0 if exactly else Fraction(1, 2))) / Fraction(2) ** shift
