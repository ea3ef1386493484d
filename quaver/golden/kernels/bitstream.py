"""Matrix products of bit streams that are packed in words of 64 bits.

Streams of A lie as (M, K, words). Those of B are laid out as (tiles, K, words, `TILE`), a tile of columns
side by side: a word each of `ROWS` rows meets the words of a tile in vectors, and the tile stays in a near
cache for all rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Streams = NDArray[np.uint64]

#: Columns side by side, and rows that go through them together.
TILE, ROWS = 64, 4


def _popcount(typingctx: Any, word: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), codegen


#: The ones of a uint64, by the machine's instruction where it has one.
popcount: Any = intrinsic(_popcount)


@njit(nogil=True)
def _signed(ones, down):
    """−ones where `down` is −1, ones where it is 0."""
    return (ones ^ down) - down


@njit(nogil=True)
def _add(count, counts):
    for row in range(ROWS):
        for j in range(min(TILE, counts.shape[1])):
            counts[row, j] += count[row, j]


@njit(cache=True, nogil=True)
def _signed_ones(a, a_signs, b, b_signs, counts):
    """Adds to `counts`, int64 (M, columns): ones of A and B, up where the signs are equal, down where not.

    Signs are int64, −1 for negative and else 0: (M, K) and (tiles, K, TILE).
    """
    count = np.empty((ROWS, TILE), np.int64)
    c0, c1, c2, c3 = count
    for tile in range(len(b)):
        for i in range(0, len(a), ROWS):
            count[:] = 0
            for k in range(a.shape[1]):
                s0, s1, s2, s3 = a_signs[i, k], a_signs[i + 1, k], a_signs[i + 2, k], a_signs[i + 3, k]
                signs = b_signs[tile, k]
                for w in range(a.shape[2]):
                    w0, w1, w2, w3 = a[i, k, w], a[i + 1, k, w], a[i + 2, k, w], a[i + 3, k, w]
                    words = b[tile, k, w]
                    for j in range(TILE):
                        word, sign = words[j], signs[j]
                        c0[j] += _signed(popcount(w0 & word), sign ^ s0)
                        c1[j] += _signed(popcount(w1 & word), sign ^ s1)
                        c2[j] += _signed(popcount(w2 & word), sign ^ s2)
                        c3[j] += _signed(popcount(w3 & word), sign ^ s3)
            _add(count, counts[i : i + ROWS, tile * TILE :])


@njit(cache=True, nogil=True)
def _differing(a, b, counts):
    """Adds to `counts`, int64 (M, columns): in how many cycles the streams of A and B differ."""
    count = np.empty((ROWS, TILE), np.int64)
    c0, c1, c2, c3 = count
    for tile in range(len(b)):
        for i in range(0, len(a), ROWS):
            count[:] = 0
            for k in range(a.shape[1]):
                for w in range(a.shape[2]):
                    w0, w1, w2, w3 = a[i, k, w], a[i + 1, k, w], a[i + 2, k, w], a[i + 3, k, w]
                    words = b[tile, k, w]
                    for j in range(TILE):
                        word = words[j]
                        c0[j] += popcount(w0 ^ word)
                        c1[j] += popcount(w1 ^ word)
                        c2[j] += popcount(w2 ^ word)
                        c3[j] += popcount(w3 ^ word)
            _add(count, counts[i : i + ROWS, tile * TILE :])


def signed_ones(a: Streams, a_negative: Any, b: Streams, b_negative: Any) -> NDArray[np.int64]:
    """In how many cycles the streams of A (M, K, words) and B (N, K, words) are both 1, summed up over K: up
    where their signs are equal, down where not, (M, N)."""
    counts = _counts(a, b)
    a_signs, b_signs = (-n.astype(np.int64)[..., None] for n in (a_negative, b_negative))
    _signed_ones(_rows(a), _rows(a_signs)[..., 0], _tiles(b), _tiles(b_signs)[:, :, 0], counts)
    return counts[: len(a)]


def differing(a: Streams, b: Streams) -> NDArray[np.int64]:
    """In how many cycles the streams of A and B differ, summed up over K: (M, N)."""
    counts = _counts(a, b)
    _differing(_rows(a), _tiles(b), counts)
    return counts[: len(a)]


def _counts(a: Streams, b: Streams) -> NDArray[np.int64]:
    return np.zeros((len(a) + -len(a) % ROWS, len(b)), np.int64)


def _rows(a: Any) -> Any:
    """Rows, and such of zeros up to a multiple of `ROWS`."""
    return np.concatenate([a, np.zeros((-len(a) % ROWS, *a.shape[1:]), a.dtype)])


def _tiles(b: Any) -> Any:
    """Columns in tiles, and such of zeros in the last one."""
    padded = np.concatenate([b, np.zeros((-len(b) % TILE, *b.shape[1:]), b.dtype)])
    return np.ascontiguousarray(padded.reshape(-1, TILE, *b.shape[1:]).transpose(0, 2, 3, 1))
