"""The draws of `quaver.golden.random_bits`: row after row of them by exclusive-or of the row before."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def hopped(state, source):
    """The state one place on."""
    hop = source.hop
    new = np.uint64(0)
    for tap in source.taps:
        new ^= state >> np.uint64(tap - hop)
    kept = (state << np.uint64(hop)) & np.uint64(0xFFFFFFFF)
    return kept | (new & np.uint64((1 << hop) - 1))


@njit(cache=True, nogil=True)
def walked(state, source, places):
    """The state so many places on."""
    for _ in range(places):
        state = hopped(state, source)
    return state


@njit(cache=True, nogil=True)
def advanced(state, source, sums):
    """The state so many sums on."""
    for _ in range(sums):
        state ^= walked(state, source, source.step)
    return state


@njit(cache=True, nogil=True)
def one_sum_on(states, sources):
    """The states of all three sources a sum on."""
    (x, y, z), (rows, columns, diagonals) = states, sources
    return advanced(x, rows, 1), advanced(y, columns, 1), advanced(z, diagonals, 1)


@njit(cache=True, nogil=True)
def moved(states, sources, down, right):
    """The states of all three sources so many rows down and columns right."""
    (x, y, z), (rows, columns, diagonals) = states, sources
    return (
        walked(x, rows, rows.per_row * down + rows.per_column * right),
        walked(y, columns, columns.per_row * down + columns.per_column * right),
        walked(z, diagonals, diagonals.per_row * down + diagonals.per_column * right),
    )


@njit(cache=True, nogil=True)
def fill(state, source, bits, shift, drawn):
    """Draws from `state` on, times 2**shift, into `drawn` (sums, strides, places).

    Place p of a sum is at [p mod strides, p div strides]. The last places are not set: `step` fewer a sum.
    """
    kind, mask = drawn.dtype.type, np.uint64((1 << bits) - 1)
    sums, strides, width = drawn.shape
    for place in range(width):
        for s in range(strides):
            drawn[0, s, place] = kind(state & mask) << shift
            state = hopped(state, source)
    for n in range(1, sums):
        for s in range(strides):
            ahead = (s + source.step) // strides
            here, there = drawn[n - 1, s], drawn[n - 1, (s + source.step) % strides, ahead:]
            for place in range(width - ahead):
                drawn[n, s, place] = here[place] ^ there[place]
