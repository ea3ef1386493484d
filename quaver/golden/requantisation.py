"""Requantisation: from exact integer sums to the next layer's codes, in integers alone.

Of a sum z in column c, with an integer multiplier m and offset o for each column and one shift s::

    q = clip(round((z·m[c] + o[c]) / 2**s), 0, 2**k − 1)        to nearest, ties to even

With m/2**s for what a sum is worth in steps of the next layer, and o/2**s for what is added to it there, this
is that layer's clip at 0 and α, batch normalisation and bias included.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.rounding import Rounding, round_integer
from quaver.golden.validation import set_integers

#: Widths of multipliers and offsets, signs included, and the largest shift: an ECP5's multiplier is as wide.
MULTIPLIER_BITS, OFFSET_BITS, MAX_SHIFT = 18, 48, 47


@dataclass(frozen=True, eq=False)
class Requantisation:
    """One layer's.

    Parameters
    ----------
    multipliers, offsets
        m and o of each column, integers of `MULTIPLIER_BITS` and `OFFSET_BITS` with their signs.
    shift
        s, 0 … `MAX_SHIFT`.
    bits
        k of the codes, 1 … 8.

    Raises
    ------
    TypeError, ValueError
        One of them is no integer or out of its range, or there are not as many multipliers as offsets.
    """

    multipliers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    shift: int
    bits: int

    def __post_init__(self) -> None:
        set_integers(self, "shift", "bits")
        for name, width in (("multipliers", MULTIPLIER_BITS), ("offsets", OFFSET_BITS)):
            array = np.asarray(getattr(self, name)).reshape(-1)
            if array.size and array.dtype.kind not in "iu":
                raise TypeError(
                    f"{name} have dtype {array.dtype}, but they are integers; Requantisation.of makes them "
                    f"of factors and offsets"
                )
            limit = 1 << (width - 1)
            if array.size and not (-limit <= array.min() and array.max() < limit):
                worst = max(array.tolist(), key=abs)
                raise ValueError(f"{name} hold {worst}, but they have {width} bits with their sign")
            object.__setattr__(self, name, array.astype(np.int64))
        if len(self.multipliers) != len(self.offsets):
            raise ValueError(
                f"{len(self.multipliers)} multipliers and {len(self.offsets)} offsets, but each column "
                f"has one of both"
            )
        if not 0 <= self.shift <= MAX_SHIFT:
            raise ValueError(f"shift is {self.shift}, but it is 0 … {MAX_SHIFT}")
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits is {self.bits}, but codes have 1 … 8")

    @classmethod
    def of(cls, factors: ArrayLike, offsets: ArrayLike, bits: int) -> Requantisation:
        """The closest to q = round(z·factor + offset), clipped: both of each column, in steps of the codes.

        The shift is the one that gives the largest factor's multiplier 16 significant bits, or less where
        the offsets would not fit. An offset that no sum can make up for is cut.
        """
        f, o = (np.asarray(values, np.float64).reshape(-1) for values in (factors, offsets))
        if not (np.isfinite(f).all() and np.isfinite(o).all()):
            raise ValueError("factors or offsets are not finite: the network has diverged")
        largest = float(np.abs(f).max(initial=0.0))
        # largest < 2**e: a shift of MULTIPLIER_BITS − 2 − e makes it less than 2**(MULTIPLIER_BITS − 2).
        shift = MULTIPLIER_BITS - 2 - frexp(largest)[1] if largest else 0
        if shift < 0:
            raise ValueError(
                f"a factor is {largest:g}, but they are less than {1 << (MULTIPLIER_BITS - 2)}: a sum is "
                f"worth many steps of the next layer; clip that at a larger α"
            )
        # Beyond `reach` the codes are at one end, whatever the sum: its magnitude is at most 2**31.
        reach = 2.0**31 * largest + (1 << bits)
        o = np.clip(o, -reach, reach)
        shift = max(min(shift, MAX_SHIFT, OFFSET_BITS - 1 - frexp(float(np.abs(o).max(initial=0.0)))[1]), 0)
        end = float((1 << (OFFSET_BITS - 1)) - 1)
        multipliers = np.rint(f * 2.0**shift).astype(np.int64)
        return cls(multipliers, np.clip(np.rint(o * 2.0**shift), -end, end).astype(np.int64), shift, bits)

    def __call__(self, sums: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The codes of sums (M, N), N columns: integers of at most 32 bits."""
        t = sums.astype(np.int64) * self.multipliers + self.offsets
        if self.shift:
            t += (1 << (self.shift - 1)) - 1 + ((t >> self.shift) & 1)
        return np.clip(t >> self.shift, 0, (1 << self.bits) - 1).astype(np.uint8)

    def definition(self, sums: NDArray[np.integer]) -> NDArray[np.uint8]:
        """The same in Python's integers, a code at a time."""
        q = np.zeros(sums.shape, np.uint8)
        for i, j in np.ndindex(*sums.shape):
            t = int(sums[i, j]) * int(self.multipliers[j]) + int(self.offsets[j])
            q[i, j] = min(max(round_integer(t, self.shift, Rounding.NEAREST_EVEN), 0), (1 << self.bits) - 1)
        return q
