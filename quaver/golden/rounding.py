"""The roundings, defined on plain integers.

Floating point drops the low bits of a *magnitude*: signs are kept aside, so a result and its negation round
alike. `round_magnitude` is the definition; `quaver.golden.formats` and the GEMM kernels compute the same
thing faster, and `rtl/rounding.py` is its hardware twin. Fixed point in two's complement has no sign to keep
aside: `round_integer` is its definition.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden.validation import Choice

#: Random bits that one stochastic rounding takes unless it is told otherwise.
RANDOM_BITS = 16


class Rounding(Choice):
    """How an exact value becomes one that the format holds."""

    NEAREST_EVEN = "nearest"
    """To the nearest value; a tie goes to the one whose last bit is 0 (IEEE 754's default), but to the one
    farther from zero in a format that is `FloatFormat.ties_away`."""
    TOWARD_ZERO = "truncate"
    """The magnitude is cut off."""
    STOCHASTIC = "stochastic"
    """Up with a probability equal to the dropped part, as a share of one step; the random bits are given.

    With N of them, R, and a dropped part ν, up if floor(ν·2**N) + R ≥ 2**N: variant A of IEEE P3109 (interim
    report 4.0, arXiv 2606.04028). What lies below the N bits is lost: half of 2**−N of a step on average."""
    STOCHASTIC_B = "stochastic-b"
    """P3109's B: up if floor(ν·2**(N + 1)) + 2R + 1 ≥ 2**(N + 1). One bit more is looked at, for no bias."""
    STOCHASTIC_C = "stochastic-c"
    """P3109's C: up if ν·2**N, rounded to nearest even, + R ≥ 2**N."""

    @property
    def draws(self) -> bool:
        """Whether it takes random bits."""
        return self in (Rounding.STOCHASTIC, Rounding.STOCHASTIC_B, Rounding.STOCHASTIC_C)

    @property
    def looks_further(self) -> int:
        """Bits below the random ones, beyond which at most the presence of others matters."""
        return int(self in (Rounding.STOCHASTIC_B, Rounding.STOCHASTIC_C))


#: To nearest, and the three that draw.
NEAREST_OR_DRAWN = (
    Rounding.NEAREST_EVEN,
    Rounding.STOCHASTIC,
    Rounding.STOCHASTIC_B,
    Rounding.STOCHASTIC_C,
)


def round_magnitude(
    magnitude: int,
    dropped_bits: int,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    random: int = 0,
    random_bits: int = RANDOM_BITS,
) -> int:
    """Drop the low `dropped_bits` bits of a non-negative integer.

    Parameters
    ----------
    magnitude, dropped_bits
        The exact magnitude is ``magnitude * 2**-dropped_bits`` in units of the last kept bit.
        A negative `dropped_bits` means zeros are appended instead, and nothing is rounded.
    rounding
        One of `Rounding`.
    random, random_bits
        Only for stochastic rounding: the magnitude is truncated to `random_bits` bits below the last kept
        bit, `random` (0 ≤ random < 2**random_bits) is added there, and the sum is truncated. Variant B is
        this with one bit more and 2 · `random` + 1; variant C rounds to nearest where this truncates first.

    Returns
    -------
    int
        The rounded magnitude in units of the last kept bit (it may have carried into one more bit).

    Notes
    -----
    Stochastic rounding after Wang et al. 2018 (arXiv 1812.08011, §2.3) and Gupta et al. 2015
    (arXiv 1502.02551, §3); both leave the number of random bits open, here it is explicit.
    """
    if magnitude < 0:
        raise ValueError(f"a magnitude is never negative, got {magnitude}; keep the sign aside")
    rounding = Rounding(rounding)
    if dropped_bits <= 0:
        return magnitude << -dropped_bits
    kept, dropped = magnitude >> dropped_bits, magnitude & ((1 << dropped_bits) - 1)
    if rounding is Rounding.TOWARD_ZERO:
        return kept
    if rounding is Rounding.NEAREST_EVEN:
        half = 1 << (dropped_bits - 1)
        return kept + (dropped > half or (dropped == half and kept & 1))
    if not 0 <= random < 1 << random_bits:
        raise ValueError(
            f"random is {random}, but {random_bits} random bits hold 0 … {(1 << random_bits) - 1}"
        )
    if rounding is Rounding.STOCHASTIC_B:
        random, random_bits = 2 * random + 1, random_bits + 1
    if rounding is Rounding.STOCHASTIC_C:
        return (round_magnitude(magnitude << random_bits, dropped_bits) + random) >> random_bits
    return ((magnitude << random_bits >> dropped_bits) + random) >> random_bits


def round_integer(
    value: int,
    dropped_bits: int,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    random: int = 0,
    random_bits: int = RANDOM_BITS,
) -> int:
    """Drop the low `dropped_bits` bits of an integer of either sign; the parameters of `round_magnitude`.

    Nearest and toward zero do not depend on how a negative number is written, and are those of the magnitude.
    Stochastic rounding does. In two's complement the kept bits are the floor, and the bits about to be
    dropped say how far above it the number lies, whatever its sign; random bits added to them and cut off
    again need no negation (Gupta et al. 2015, arXiv 1502.02551, §3 and §5: up from the floor). So ``value``
    is floored to `random_bits` bits below the last kept bit, `random` is added there, and the sum is floored.
    It is unbiased on either side of zero, but with the same bits round(−x) is not −round(x), as it is for a
    magnitude.
    """
    if Rounding(rounding).draws and dropped_bits > 0 and value < 0:
        # One step up moves floor and value alike, and brings the value above zero.
        steps = -(value >> dropped_bits)
        return (
            round_magnitude(value + (steps << dropped_bits), dropped_bits, rounding, random, random_bits)
            - steps
        )
    magnitude = round_magnitude(abs(value), dropped_bits, rounding, random, random_bits)
    return -magnitude if value < 0 else magnitude


def round_integers(
    values: NDArray[np.int64],
    dropped_bits: int,
    rounding: Rounding | str,
    random: NDArray[Any] | None = None,
    random_bits: int = RANDOM_BITS,
) -> NDArray[np.int64]:
    """`round_integer` of an array, whose values are int64 with half a step more, or a random number, too."""
    rounding, dropped = Rounding(rounding), dropped_bits
    if dropped <= 0:
        return values << -dropped
    if rounding is Rounding.TOWARD_ZERO:
        return (values + np.where(values < 0, (1 << dropped) - 1, 0)) >> dropped
    if rounding is Rounding.NEAREST_EVEN:
        return (values + (1 << (dropped - 1)) - 1 + ((values >> dropped) & 1)) >> dropped
    if random is None:
        raise ValueError(f"rounding is {rounding}, which takes random bits; give one draw for each value")
    drawn = random.astype(np.int64)
    if rounding is Rounding.STOCHASTIC_B:
        drawn, random_bits = 2 * drawn + 1, random_bits + 1
    if rounding is Rounding.STOCHASTIC_C and dropped > random_bits:
        values, dropped = round_integers(values, dropped - random_bits, Rounding.NEAREST_EVEN), random_bits
    shift = dropped - random_bits
    return (values + (drawn << shift if shift >= 0 else drawn >> -shift)) >> dropped
