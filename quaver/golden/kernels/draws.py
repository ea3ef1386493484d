"""The draws of `quaver.golden.lfsr`, 64 steps at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import get_num_threads, njit

# The bit sequence s obeys s[t] = XOR of s[t − tap] over the taps. Squaring a polynomial over GF(2) doubles
# its exponents and does nothing else, so s[t] = XOR of s[t − 64·tap] as well. Packed in words of 64 bits,
# oldest bit on top, the same recurrence therefore holds word by word: 64 steps for three exclusive-ors.

_BLOCK = 512  # draws; 512 draws of n bits are exactly 8·n words
_ONE_THREAD = 1 << 16  # draws: below it a second thread costs more than it brings


@njit(cache=True, nogil=True)
def fill(state, taps, bits, drawn):
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
def _fill_each(seeds, taps, bits, drawn):
    for row in range(len(seeds)):
        fill(seeds[row], taps, bits, drawn[row])


def fill_rows(seeds, taps, bits, drawn):
    """Row r of `drawn` from ``seeds[r]``, by as many threads as Numba may use.

    They are Python's: a process forked from one that has used Numba's own (OpenMP's) may not use them again,
    and data loaders fork.
    """
    threads = min(get_num_threads(), len(seeds)) if drawn.size >= _ONE_THREAD else 1
    if threads == 1:
        _fill_each(seeds, taps, bits, drawn)
        return
    edges = [len(seeds) * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda a, b: _fill_each(seeds[a:b], taps, bits, drawn[a:b]), edges, edges[1:]))
