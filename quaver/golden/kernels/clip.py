"""PACT's activation in one pass each way: values to codes, errors to errors and the gradient of α."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def codes(x, low, high, steps, out):
    """rint(clip(x, low, high) · steps / high) of flat `x`, computed in float64; whether no x is NaN."""
    whole = True
    for i in range(len(x)):
        value = np.float64(x[i])
        whole &= value == value
        clipped = min(max(value, low), high)
        out[i] = np.int64(np.rint(clipped * steps / high))
    return whole


@njit(cache=True, nogil=True)
def backward(x, error, low, high, out):
    """`out` = error where low ≤ x < high, else 0; and the gradient of α = high: the sum, in order and in
    float64, of the errors where x ≥ high, less that where x lies below a negative `low`."""
    gradient = 0.0
    zero = error.dtype.type(0)
    for i in range(len(x)):
        inside = low <= x[i] < high
        out[i] = error[i] if inside else zero
        if x[i] >= high:
            gradient += error[i]
        elif low < 0 and x[i] < low:
            gradient -= error[i]
    return gradient
