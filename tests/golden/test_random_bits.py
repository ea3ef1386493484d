"""Which random bits round which sum: the definition, and that errors of one matrix do not go together."""

from __future__ import annotations

import importlib.util
import os
import warnings
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.lfsr import LFSR, numbered_seed
from quaver.golden.random_bits import SOURCES, draws_of, first_draws, states

_spec = importlib.util.spec_from_file_location(
    "random_bits", Path(__file__).parents[2] / "bench/random_bits.py"
)
assert _spec
assert _spec.loader
bench = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bench)


def test_the_rule_as_it_is_written():
    """row[n, i] ^ column[n, j] ^ diagonal[n, 3i + j], each state a sum on an exclusive-or of two."""
    tables = []
    for number, source in enumerate(SOURCES):
        lfsr = LFSR(numbered_seed(77, number), source.taps)
        states_of_a_sum = [lfsr.state]
        for _ in range(60):
            for _ in range(source.hop):
                lfsr.step()
            states_of_a_sum.append(lfsr.state)
        table = [states_of_a_sum]
        for _ in range(8):
            before = table[-1]
            table.append([before[p] ^ before[p + source.step] for p in range(len(before) - source.step)])
        tables.append(table)
    row, column, diagonal = tables
    for i, j in product(range(6), range(7)):
        wanted = [(row[n][i] ^ column[n][j] ^ diagonal[n][3 * i + j]) & 0x3FFF for n in range(9)]
        assert list(islice(draws_of(77, i, j, 14), 9)) == wanted
        assert states(77, i, j) == (row[0][i], column[0][j], diagonal[0][3 * i + j])
        assert first_draws(states(77), 6, 7, 14)[i, j] == wanted[0]
    assert np.array_equal(first_draws(states(77, 2, 3), 4, 4, 14), first_draws(states(77), 6, 7, 14)[2:, 3:])
    assert first_draws(states(77), 0, 7, 14).shape == (0, 7)


def matrix_of(place: int, taps: tuple[int, ...]) -> np.ndarray:
    """Over GF(2): the bits of an LFSR's state `place` steps on, each as a row of bits of the state now."""
    columns = []
    for bit in range(32):
        lfsr = LFSR(1 << bit, taps)
        lfsr.draws(place, 1)
        columns.append([lfsr.state >> i & 1 for i in range(32)])
    return np.array(columns).T


def rank(matrix: np.ndarray) -> int:
    rows = [int("".join(map(str, row)), 2) for row in matrix.tolist()]
    found = 0
    while rows:
        pivot = rows.pop()
        if pivot:
            found += 1
            low = pivot & -pivot
            rows = [row ^ pivot if row & low else row for row in rows]
    return found


@pytest.mark.parametrize("bits", [1, 14, 24])
def test_any_two_outputs_draw_independently(bits):
    """Two outputs' bits are linear in the 96 of the sources, and of full rank: all pairs of draws are as
    likely. The upper bits of four at the corners of a rectangle are independent too; of a row's and a
    column's draw alone, three corners would decide the fourth."""

    def drawn(i, j, sources=SOURCES, first=0):
        places = [s.hop * (i * s.per_row + j * s.per_column) for s in sources]
        return np.hstack([matrix_of(p, s.taps)[first:bits] for p, s in zip(places, sources, strict=True)])

    for i, j in [(0, 1), (1, 0), (1, 1), (3, 1), (1, 3), (2, 5), (63, 63), (40, 2), (100, 999)]:
        assert rank(np.vstack([drawn(0, 0), drawn(i, j)])) == 2 * bits
    assert rank(np.vstack([drawn(1, 0), drawn(0, 3)])) == 2 * bits  # on one diagonal
    upper = min(bits, 3)
    for i, j in [(1, 1), (1, 3), (3, 1), (5, 2), (63, 63)]:
        corners = [(0, 0), (0, j), (i, 0), (i, j)]
        for sources, independent in ((SOURCES, 4), (SOURCES[:2], 3)):
            found = rank(np.vstack([drawn(*corner, sources, bits - upper) for corner in corners]))
            assert found == independent * upper


# Means of 600 seeds and their sampling errors: singular value 6.32 ± 0.01, correlation 0.1250 ± 0.0001,
# variance 1 ± 0.06, share 0.0587 ± 0.0002.


def close(found):
    wanted = (6.33, 0.04), (0.1250, 0.0006), (1.0, 0.3), (0.0588, 0.0009)
    return [abs(value - right) < slack for value, (right, slack) in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("way", ["golden", "independent", "two_draws"])
def test_errors_of_one_matrix_are_as_good_as_independent(way):
    found = bench.statistics([bench.rounded(getattr(bench, way), seed) for seed in range(1, 601)])
    assert close(found) == [way != "two_draws"] * 4, found


def test_errors_of_both_arithmetics_are_as_good_as_independent():
    seeds = range(1, 601)
    found = bench.statistics([bench.fixed_point(seed) for seed in seeds])
    assert close(found) == [True] * 4, found
    independent = bench.statistics(
        [bench.sums_by_hand(lambda s, n: bench.independent(1000 * s + n), 1, seed) for seed in seeds]
    )
    found = bench.statistics([bench.chunked_float(1, seed) for seed in seeds])
    assert np.allclose(found, independent, rtol=(0.01, 0.01, 0.3, 0.02)), (found, independent)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_process_draws_the_same() -> None:
    """As a data loader's does, after its parent has used threads."""
    arithmetic = ChunkedFloat(rounding="stochastic")
    a = np.random.default_rng(0).integers(0, 256, (500, 500)).astype(np.uint8)
    expected = arithmetic.gemm(a, a, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, on forking a process with threads
        child = os.fork()
    if child == 0:
        same = np.array_equal(arithmetic.gemm(a, a, seed=1), expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
