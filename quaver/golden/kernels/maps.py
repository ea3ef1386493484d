"""The passes over whole maps of which NumPy would make several: one compiled loop each.

Maps are C-contiguous (B, C, H, W) of float32 (float64 where a test takes finite differences).
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def where_positive(test, values, out):
    """values where test > 0 or is NaN, else +0; all three flat."""
    zero = values.dtype.type(0)
    for i in range(len(test)):
        out[i] = zero if test[i] <= 0 else values[i]


@njit(cache=True, nogil=True)
def largest(x, size, out, index):
    """The first largest of each square in row order, and its place 0 … size² − 1 in the square. NaN wins."""
    batch, channels, height, width = out.shape
    for b in range(batch):
        for c in range(channels):
            for row in range(height):
                for column in range(width):
                    best, place = x[b, c, row * size, column * size], 0
                    for i in range(size):
                        for j in range(size):
                            value = x[b, c, row * size + i, column * size + j]
                            if value > best or (value != value and best == best):
                                best, place = value, i * size + j
                    out[b, c, row, column] = best
                    index[b, c, row, column] = place


@njit(cache=True, nogil=True)
def scatter(error, index, size, out):
    """Each square's error to the place that `largest` found; `out` is zeros."""
    batch, channels, height, width = error.shape
    for b in range(batch):
        for c in range(channels):
            for row in range(height):
                for column in range(width):
                    n = index[b, c, row, column]
                    out[b, c, row * size + n // size, column * size + n % size] = error[b, c, row, column]


@njit(cache=True, nogil=True)
def mean(x, size, out):
    """The mean of each square, summed up in row order in float64."""
    batch, channels, height, width = out.shape
    for b in range(batch):
        for c in range(channels):
            for row in range(height):
                for column in range(width):
                    total = 0.0
                    for i in range(size):
                        for j in range(size):
                            total += np.float64(x[b, c, row * size + i, column * size + j])
                    out[b, c, row, column] = total / (size * size)


@njit(cache=True, nogil=True)
def spread(share, size, out):
    """Each square filled with its share; what no square covers becomes 0."""
    batch, channels, height, width = out.shape
    covered = share.shape[2] * size, share.shape[3] * size
    for b in range(batch):
        for c in range(channels):
            for y in range(height):
                for z in range(width):
                    inside = y < covered[0] and z < covered[1]
                    out[b, c, y, z] = share[b, c, y // size, z // size] if inside else 0


@njit(cache=True, nogil=True)
def moments(x, y, sums):
    """Sums over each channel, in float64: `sums` (2, C) gets Σ x and Σ x·y."""
    batch, channels = x.shape[:2]
    sums[:] = 0
    for b in range(batch):
        for c in range(channels):
            one, other = x[b, c].reshape(-1), y[b, c].reshape(-1)
            # Eight sums at a time fill the vector registers, in an order that is fixed.
            first, second = np.zeros(8), np.zeros(8)
            whole = len(one) // 8 * 8
            for i in range(0, whole, 8):
                for lane in range(8):
                    value = np.float64(one[i + lane])
                    first[lane] += value
                    second[lane] += value * other[i + lane]
            for i in range(whole, len(one)):
                value = np.float64(one[i])
                first[0] += value
                second[0] += value * other[i]
            for lane in range(8):
                sums[0, c] += first[lane]
                sums[1, c] += second[lane]


@njit(cache=True, nogil=True)
def affine(x, y, factors, out):
    """a·x + b·y + c in float64, with `factors` a, b, c (3, C) of each channel."""
    for n in range(x.shape[0]):
        for channel in range(x.shape[1]):
            a, b, c = factors[0, channel], factors[1, channel], factors[2, channel]
            one, other = x[n, channel].reshape(-1), y[n, channel].reshape(-1)
            target = out[n, channel].reshape(-1)
            for i in range(len(one)):
                target[i] = a * one[i] + b * other[i] + c
