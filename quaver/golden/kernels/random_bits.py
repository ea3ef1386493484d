"""The draws of `quaver.golden.random_bits`: row after row of them by exclusive-or of the row before."""

from __future__ import annotations

import numpy as np
from numba import njit

from quaver.golden.kernels.draws import sequence, windows
from quaver.golden.kernels.shifts import shift_left, shift_right

#: Steps of an LFSR at once, so few that no tap reaches into the new bits.
LEAP = 16


@njit(cache=True, nogil=True)
def leapt(state, taps, steps):
    """The state at most `LEAP` steps on, uint32."""
    new = np.uint32(0)
    for tap in taps:
        new ^= shift_right(state, np.uint32(tap - steps))
    kept = shift_left(state, np.uint32(steps))
    return np.uint32(kept | np.uint32(new & np.uint32((1 << steps) - 1)))


@njit(cache=True, nogil=True)
def walked(state, source, places):
    """The state so many places on."""
    state, steps = np.uint32(state), source.hop * places
    for _ in range(steps // LEAP):
        state = leapt(state, source.taps, LEAP)
    return np.uint64(leapt(state, source.taps, steps % LEAP))


@njit(cache=True, nogil=True)
def advanced(state, source, sums):
    """The state so many sums on.

    A sum multiplies the state by 1 + x**step, x being a place. Over GF(2), squaring such a factor doubles its
    exponent and does nothing else.
    """
    places = source.step
    while sums:
        if sums & 1:
            state ^= walked(state, source, places)
        places, sums = 2 * places, sums >> 1
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
    """Draws from `state` on, times 2**shift, into `drawn` (strides, sums, places).

    Place p of a sum is at [p mod strides, p div strides]. The last places are not set: `step` fewer a sum.
    Sums n … 2n − 1 are made of sums 0 … n − 1, for powers of two n.
    """
    strides, sums, width = drawn.shape
    words = np.empty((strides * width * source.hop + 32) // 64 + 2, np.uint64)
    sequence(state, source.taps, words)
    for s in range(strides):
        windows(words, 32 - bits + s * source.hop, strides * source.hop, bits, drawn[s, 0])
        for place in range(width):
            drawn[s, 0, place] <<= shift
    flat, n = drawn.reshape(strides, -1), 1
    while n < sums:
        for s in range(strides):
            ahead = (s + n * source.step) // strides
            count = min(n, sums - n) * width - ahead
            here, there = flat[s], flat[(s + n * source.step) % strides, ahead:]
            new = flat[s, n * width :]
            for place in range(count):
                new[place] = here[place] ^ there[place]
        n *= 2
