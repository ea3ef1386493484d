"""The random source that the hardware has, bit for bit.

A Fibonacci LFSR of 32 bits: each step shifts left and brings in the exclusive-or of the tapped bits. A draw
of n bits leaps n steps forward and is the low n bits of the new state, i.e. the n new bits, oldest on top.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.validation import as_integer

#: Primitive, and no tap is below 25: any draw of up to 25 bits is one 4-input exclusive-or a bit (one LUT4).
TAPS = (32, 30, 26, 25)
#: A second primitive polynomial, for the source that is combined with one on TAPS.
COLUMN_TAPS = (32, 30, 27, 24)
#: Odd constant (the golden ratio in 32 bits): numbered seeds lie so far apart before they are stirred.
SEED_STEP = 0x9E3779B9

_MASK = np.uint64(0xFFFFFFFF)


def _check_taps(taps: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(taps)) != len(taps) or not all(1 <= tap <= 32 for tap in taps) or 32 not in taps:
        raise ValueError(f"taps are {taps}, but they must be distinct, in 1 … 32, and 32 among them")
    return tuple(taps)


def _check_bits(bits: int) -> None:
    if not 1 <= as_integer(bits, "bits of a draw") <= 32:
        raise ValueError(f"a draw of {bits} bits, but a draw takes 1 … 32")


class LFSR:
    """A 32-bit maximal-length LFSR (period 2**32 − 1).

    Parameters
    ----------
    seed
        The initial state, 1 … 2**32 − 1. Zero would stay zero for ever and is a ValueError.
    taps
        Positions counted from 1 at the newest bit; a new bit is the exclusive-or of the tapped ones.

    Attributes
    ----------
    state
        The last 32 bits, the newest at bit 0: all there is to save and restore.
    """

    def __init__(self, seed: int, taps: tuple[int, ...] = TAPS) -> None:
        self.state = as_integer(seed, "LFSR seed")
        if not 0 < self.state < 1 << 32:
            raise ValueError(
                f"LFSR seed is {seed}, but it must be 1 … 2**32 − 1 (zero never leaves zero); choose another"
            )
        self.taps = _check_taps(taps)

    def step(self) -> int:
        """One step: the new bit."""
        bit = 0
        for tap in self.taps:
            bit ^= (self.state >> (tap - 1)) & 1
        self.state = ((self.state << 1) & 0xFFFFFFFF) | bit
        return bit

    def draw(self, bits: int) -> int:
        """One draw of 1 … 32 bits: the definition, a step at a time."""
        _check_bits(bits)
        for _ in range(bits):
            self.step()
        return self.state & ((1 << bits) - 1)

    def draws(self, count: int, bits: int) -> NDArray[np.unsignedinteger]:
        """`count` draws in order: uint16 for up to 16 bits, else uint32. Equal to `count` calls of `draw`."""
        _check_bits(bits)
        if count < 0:
            raise ValueError(f"{count} draws asked for, but there is no drawing back; ask for 0 or more")
        from quaver.golden.kernels import draws  # compiles: not before something is drawn

        drawn = np.empty(count, dtype=_draw_dtype(bits))
        self.state = int(draws.fill(self.state, self.taps, bits, drawn))
        return drawn


def numbered_seed(seed: int, index: int) -> int:
    """The seed of source number `index` of a family, or of call number `index` of a run; never zero.

    (seed + index · SEED_STEP) mod 2**32, or SEED_STEP where that is 0, stirred by the finaliser of
    MurmurHash3, a bijection of 32 bits: x ^= x >> 16, x *= 0x85EBCA6B, x ^= x >> 13, x *= 0xC2B2AE35,
    x ^= x >> 16. Unstirred, source i + 1 of one call would be source i of the next, and the first draws of
    neighbours would go together.
    """
    return int(_numbered_seeds(seed, index))


def _numbered_seeds(seed: int, indices: ArrayLike) -> NDArray[np.uint64]:
    x = (np.asarray(indices, np.uint64) * np.uint64(SEED_STEP) + np.uint64(int(seed) % (1 << 32))) & _MASK
    x = np.where(x == 0, np.uint64(SEED_STEP), x)
    x = (x ^ x >> np.uint64(16)) * np.uint64(0x85EBCA6B) & _MASK
    x = (x ^ x >> np.uint64(13)) * np.uint64(0xC2B2AE35) & _MASK
    return x ^ x >> np.uint64(16)


def numbered_draws(
    seed: int, indices: ArrayLike, count: int, bits: int, taps: tuple[int, ...] = TAPS
) -> NDArray[np.unsignedinteger]:
    """The first `count` draws of each of many numbered sources.

    Parameters
    ----------
    seed, indices
        Row r comes from ``LFSR(numbered_seed(seed, indices[r]), taps)``; `indices` is one-dimensional.
    count, bits, taps
        Draws a source, bits a draw (1 … 32), and the polynomial.

    Returns
    -------
    ndarray, shape (len(indices), count), uint16 for up to 16 bits, else uint32
        Equal to ``LFSR(numbered_seed(seed, index), taps).draws(count, bits)``, row by row.
    """
    _check_bits(bits)
    if count < 0:
        raise ValueError(f"{count} draws asked for, but there is no drawing back; ask for 0 or more")
    from quaver.golden.kernels import draws

    seeds = _numbered_seeds(seed, indices)
    drawn = np.empty((len(seeds), count), dtype=_draw_dtype(bits))
    draws.fill_rows(seeds, _check_taps(taps), bits, drawn)
    return drawn


def _draw_dtype(bits: int) -> type[np.unsignedinteger]:
    return np.uint16 if bits <= 16 else np.uint32
