"""The random source that the hardware has, bit for bit.

A Fibonacci LFSR of 32 bits: each step shifts left and brings in the exclusive-or of the tapped bits. A draw
of n bits leaps n steps forward and is the low n bits of the new state, i.e. the n new bits, oldest on top.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Primitive, and no tap is below 25: any draw of up to 25 bits is one 4-input exclusive-or a bit (one LUT4).
TAPS = (32, 30, 26, 25)
#: A second primitive polynomial, for the source that is combined with one on TAPS.
COLUMN_TAPS = (32, 30, 27, 24)
#: Odd constant (the golden ratio in 32 bits) that sets the seeds of numbered sources apart.
SEED_STEP = 0x9E3779B9


class LFSR:
    """A 32-bit maximal-length LFSR (period 2**32 − 1).

    Parameters
    ----------
    seed
        The initial state, 1 … 2**32 − 1. Zero would stay zero for ever and is a ValueError.
    taps
        Positions counted from 1 at the newest bit; a new bit is the exclusive-or of the tapped ones.
    """

    def __init__(self, seed: int, taps: tuple[int, ...] = TAPS) -> None:
        if not 0 < seed < 1 << 32:
            raise ValueError(
                f"LFSR seed is {seed}, but it must be 1 … 2**32 − 1 (zero never leaves zero); choose another"
            )
        self.state = int(seed)
        self.taps = taps

    def step(self) -> int:
        """One step: the new bit."""
        bit = 0
        for tap in self.taps:
            bit ^= (self.state >> (tap - 1)) & 1
        self.state = ((self.state << 1) & 0xFFFFFFFF) | bit
        return bit

    def draw(self, bits: int) -> int:
        """One draw of 1 … 32 bits: the definition, a step at a time."""
        if not 1 <= bits <= 32:
            raise ValueError(f"a draw of {bits} bits, but a draw takes 1 … 32")
        for _ in range(bits):
            self.step()
        return self.state & ((1 << bits) - 1)

    def draws(self, count: int, bits: int) -> NDArray[np.unsignedinteger]:
        """`count` draws in order: uint16 for up to 16 bits, else uint32. Equal to `count` calls of `draw`."""
        return np.array([self.draw(bits) for _ in range(count)], dtype=np.uint16 if bits <= 16 else np.uint32)


def numbered_seed(seed: int, index: int) -> int:
    """Seed of source `index` of a family: (seed + index · SEED_STEP) mod 2**32, and SEED_STEP for 0."""
    return (seed + index * SEED_STEP) % (1 << 32) or SEED_STEP
