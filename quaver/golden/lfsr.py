"""The random source that the hardware has, bit for bit.

A Fibonacci LFSR of 32 bits: each step shifts left and brings in the exclusive-or of the tapped bits. A draw
of n bits leaps n steps forward and is the low n bits of the new state, i.e. the n new bits, oldest on top.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
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
        drawn = np.empty(count, dtype=_draw_dtype(bits))
        self.state = int(_fill(self.state, self.taps, bits, drawn))
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
    seeds = _numbered_seeds(seed, indices)
    drawn = np.empty((len(seeds), count), dtype=_draw_dtype(bits))
    (_fill_rows if drawn.size >= 1 << 16 else _fill_rows_serial)(seeds, _check_taps(taps), bits, drawn)
    return drawn


def _draw_dtype(bits: int) -> type[np.unsignedinteger]:
    return np.uint16 if bits <= 16 else np.uint32


# The bit sequence s obeys s[t] = XOR of s[t − tap] over the taps. Squaring a polynomial over GF(2) doubles
# its exponents and does nothing else, so s[t] = XOR of s[t − 64·tap] as well. Packed in words of 64 bits,
# oldest bit on top, the same recurrence therefore holds word by word: 64 steps for three exclusive-ors.

_BLOCK = 512  # draws; 512 draws of n bits are exactly 8·n words


@njit(cache=True, nogil=True)
def _fill(state, taps, bits, drawn):
    """Fill `drawn` with draws that follow `state`; returns the state after them."""
    words = np.empty(8 * bits + 33, np.uint64)
    leap = 16  # steps at once while there are too few words: no tap may reach into the new bits
    for tap in taps:
        while leap > tap:
            leap >>= 1
    state = np.uint64(state)
    words[0] = state
    word, have = np.uint64(state), 32
    for i in range(32):
        while have < 64:
            new = np.uint64(0)
            for tap in taps:
                new ^= state >> np.uint64(tap - leap)
            new &= np.uint64((1 << leap) - 1)
            state = ((state << np.uint64(leap)) | new) & np.uint64(0xFFFFFFFF)
            word = (word << np.uint64(leap)) | new
            have += leap
        words[i] = word
        word, have = np.uint64(0), 0
    ready = 32
    done = 0
    while True:
        for i in range(ready, len(words)):
            word = np.uint64(0)
            for tap in taps:
                word ^= words[i - tap]
            words[i] = word
        block = min(_BLOCK, len(drawn) - done)
        _extract(words, bits, drawn[done : done + block])
        done += block
        if done == len(drawn):
            return _bits_at(words, np.uint64(block * bits), 32)
        words[:33] = words[8 * bits :]
        ready = 33


@njit(cache=True, nogil=True)
def _extract(words, bits, drawn):
    for n in range(len(drawn)):
        drawn[n] = _bits_at(words, np.uint64(32) + np.uint64(n) * np.uint64(bits), bits)


@njit(cache=True, nogil=True)
def _bits_at(words, position, bits):
    """`bits` bits (1 … 32) of the sequence from `position` on, oldest on top."""
    word, offset = position >> np.uint64(6), position & np.uint64(63)
    window = (words[word] << offset) | (
        words[word + np.uint64(1)] >> np.uint64(1) >> (np.uint64(63) - offset)
    )
    return window >> np.uint64(64 - bits)


@njit(cache=True, nogil=True)
def _fill_rows_serial(seeds, taps, bits, drawn):
    for row in range(len(seeds)):
        _fill(seeds[row], taps, bits, drawn[row])


@njit(cache=True, parallel=True)
def _fill_rows(seeds, taps, bits, drawn):
    for row in prange(len(seeds)):
        _fill(seeds[row], taps, bits, drawn[row])
