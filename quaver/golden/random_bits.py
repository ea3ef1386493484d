"""The random bits that round the sums of a matrix product, in the model and in an array of hardware alike.

Three sources, LFSRs of one polynomial each. Output (i, j) rounds its n-th sum, counted from 0, with the low
bits of::

    row[n, i] ^ column[n, j] ^ diagonal[n, 3i + j]

The state before the first sum of output (0, 0) is the seed's. One place on is `hop` steps of the LFSR later,
and one sum on the state is its exclusive-or with the state `step` places on: ``row[n + 1, i] = row[n, i] ^
row[n, i + 1]``.

So the bits follow from the seed alone, not from tiles, threads or the size of an array. And hardware makes
them on the way: three states enter an array at its corner and hop from element to element with the operands.

Every draw is uniform, and any two of a matrix are independent, so that a sum of rounding errors has the mean
and the variance that it would have with bits drawn for each output. Nor do errors go together in fours, as
they do with a row's and a column's draw alone: the outputs at the corners of a rectangle share rows and
columns, and then their diagonals are others. `bench/random_bits.py` has the figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from quaver.golden.lfsr import COLUMN_TAPS, DIAGONAL_TAPS, LFSR, TAPS, numbered_seed
from quaver.golden.validation import as_integer

Draws = NDArray[Any]

#: Of the rows', the columns' and the diagonals' source.
States = tuple[int, int, int]


class Source(NamedTuple):
    """One of the three sources.

    Attributes
    ----------
    taps
        Of its LFSR.
    hop
        Steps of the LFSR from one place to the next.
    per_row, per_column
        Places from output (i, j) to (i + 1, j), and to (i, j + 1).
    step
        From one sum to the next, the state is its exclusive-or with the state so many places on.
    """

    taps: tuple[int, ...]
    hop: int
    per_row: int
    per_column: int
    step: int

    @property
    def transposed(self) -> Source:
        """The same for the transposed matrix."""
        return self._replace(per_row=self.per_column, per_column=self.per_row)

    def moved(self, state: int, places: int) -> int:
        """The state so many places after `state`."""
        if not places:
            return state
        lfsr = LFSR(state, self.taps)
        lfsr.draws(places, self.hop)
        return lfsr.state


# Each hop is so short that hardware makes it of `hop` exclusive-ors of four bits. Yet no two outputs read the
# same bits of all three sources, shifted alike: d rows and d columns on, rows' and columns' bits are shifted
# by 3d, but the diagonals' by 4d.
ROW = Source(TAPS, hop=3, per_row=1, per_column=0, step=1)
COLUMN = Source(COLUMN_TAPS, hop=3, per_row=0, per_column=1, step=1)
DIAGONAL = Source(DIAGONAL_TAPS, hop=1, per_row=3, per_column=1, step=2)
SOURCES = (ROW, COLUMN, DIAGONAL)


def states(seed: int | None, row: int = 0, column: int = 0) -> States:
    """The states of the sources before the first sum of output (row, column).

    Those of output (0, 0) are ``numbered_seed(seed, 0)``, 1 and 2. ValueError: `seed` is not one of 1 … 2**32
    − 1.
    """
    if seed is None or not 0 < as_integer(seed, "seed") < 1 << 32:
        raise ValueError(f"seed is {seed}, but random bits need one of 1 … 2**32 − 1")
    x, y, z = (
        source.moved(numbered_seed(seed, number), row * source.per_row + column * source.per_column)
        for number, source in enumerate(SOURCES)
    )
    return x, y, z


def states_of(seed: int | None, row: int, column: int) -> Iterator[States]:
    """The states for the sums of output (row, column), one after the other, without end: the definition."""
    x, y, z = states(seed, row, column)
    while True:
        yield x, y, z
        x, y, z = (
            state ^ source.moved(state, source.step) for state, source in zip((x, y, z), SOURCES, strict=True)
        )


def draws_of(seed: int | None, row: int, column: int, bits: int) -> Iterator[int]:
    """The random bits of output (row, column), a sum after the other, without end."""
    for x, y, z in states_of(seed, row, column):
        yield (x ^ y ^ z) & ((1 << bits) - 1)


def first_draws(states: States, rows: int, columns: int, bits: int) -> Draws:
    """The random bits of the first sum of every output: uint32, shape (rows, columns)."""
    from quaver.golden.kernels.random_bits import fill  # compiles: not before something is drawn

    found = np.zeros((rows, columns), np.uint32)
    if not found.size:
        return found
    for state, source in zip(states, SOURCES, strict=True):
        places = (rows - 1) * source.per_row + (columns - 1) * source.per_column + 1
        drawn = np.empty((1, 1, places), np.uint32)
        fill(np.uint64(state), source, bits, np.uint32(0), drawn)
        strides = source.per_row * drawn.itemsize, source.per_column * drawn.itemsize
        found ^= as_strided(drawn[0, 0], found.shape, strides, writeable=False)
    return found
