"""The draws of `quaver.golden.lfsr`, 64 steps at a time."""

from __future__ import annotations

import numpy as np
from numba import njit

# The bit sequence s obeys s[t] = XOR of s[t − tap] over the taps. Squaring a polynomial over GF(2) doubles
# its exponents and does nothing else, so s[t] = XOR of s[t − 64·tap] as well. Packed in words of 64 bits,
# oldest bit on top, the same recurrence therefore holds word by word: 64 steps for three exclusive-ors.

_BLOCK = 512  # draws; 512 draws of n bits are exactly 8·n words


@njit(cache=True, nogil=True)
def sequence(state, taps, words):
    """The bits of `state` and all that follow them, into `words`."""
    leap = 16  # steps at once while there are too few words: no tap may reach into the new bits
    for tap in taps:
        while leap > tap:
            leap >>= 1
    state = np.uint64(state)
    word, have = state, 32
    for i in range(min(32, len(words))):
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
    _extend(words, 32, taps)


@njit(nogil=True)
def _extend(words, ready, taps):
    at_once = 32
    for tap in taps:
        at_once = min(at_once, tap)
    for start in range(ready, len(words), at_once):  # no tap reaches into these: they go in vectors
        new = words[start : start + at_once]
        new[:] = 0
        for tap in taps:
            old = words[start - tap : start - tap + len(new)]
            for i in range(len(new)):
                new[i] ^= old[i]


@njit(cache=True, nogil=True)
def fill(state, taps, bits, drawn):
    """Fill `drawn` with draws that follow `state`; returns the state after them."""
    words = np.empty(8 * bits + 33, np.uint64)
    sequence(state, taps, words)
    done = 0
    while True:
        block = min(_BLOCK, len(drawn) - done)
        part = drawn[done : done + block]
        if bits == 16 and block == _BLOCK:
            _halves_from_32(words, part)
        else:
            windows(words, 32, bits, bits, part)
        done += block
        if done == len(drawn):
            return _bits_at(words, np.uint64(block * bits), 32)
        words[:33] = words[8 * bits :]
        _extend(words, 33, taps)


@njit(nogil=True)
def _halves_from_32(words, drawn):
    """`windows(words, 32, 16, 16, drawn)` for whole words, the common case: two of each word, two of the
    next."""
    for i in range(len(drawn) // 4):
        late, early = words[i], words[i + 1]
        drawn[4 * i] = late >> np.uint64(16) & np.uint64(0xFFFF)
        drawn[4 * i + 1] = late & np.uint64(0xFFFF)
        drawn[4 * i + 2] = early >> np.uint64(48)
        drawn[4 * i + 3] = early >> np.uint64(32) & np.uint64(0xFFFF)


@njit(cache=True, nogil=True)
def windows(words, first, step, bits, found):
    """`bits` bits (1 … 32) of the sequence each, the n-th from first + n · step on, oldest on top."""
    for n in range(len(found)):
        found[n] = _bits_at(words, np.uint64(first) + np.uint64(n) * np.uint64(step), bits)


@njit(cache=True, nogil=True)
def _bits_at(words, position, bits):
    """`bits` bits (1 … 32) of the sequence from `position` on, oldest on top."""
    word, offset = position >> np.uint64(6), position & np.uint64(63)
    window = (words[word] << offset) | (
        words[word + np.uint64(1)] >> np.uint64(1) >> (np.uint64(63) - offset)
    )
    return window >> np.uint64(64 - bits)
