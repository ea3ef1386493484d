"""Integers of a few bits: every code of every format, the largest sums, kernel and definition."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import product

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quaver.golden.arithmetic import Integer
from quaver.golden.arithmetic.integer import accumulator_bits, largest_product
from quaver.golden.formats import IntegerFormat, Levels, parse
from quaver.golden.kernels import dots
from quaver.golden.lfsr import LFSR

FORMATS = [IntegerFormat(bits, levels) for levels in Levels for bits in range(1, 9)]
PAIRS = [(a, b) for a, b in product(FORMATS, FORMATS) if not a.levels is b.levels is Levels.ODD]


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_every_code(fmt: IntegerFormat) -> None:
    k, codes = fmt.bits, np.arange(1 << fmt.bits, dtype=np.uint8)
    means = {
        Levels.UNSIGNED: lambda q: q,
        Levels.SIGNED: lambda q: q - (1 << k) * (q >> (k - 1)),
        Levels.ODD: lambda q: 2 * q - (2**k - 1),
    }[fmt.levels]
    values = [means(int(q)) for q in codes]
    assert fmt.decode(codes).tolist() == fmt.integers(codes).tolist() == values
    assert (fmt.lowest, fmt.highest) == (min(values), max(values))
    for rounding in ("nearest", "truncate"):
        assert np.array_equal(fmt.encode(np.array(values), rounding), codes)
    assert np.array_equal(fmt.codes(np.array(values)), codes)
    assert parse(str(fmt)) == fmt
    if fmt.levels is Levels.ODD:  # the hardware's reading: a signed number, twice and 1 more
        signed = IntegerFormat(k, Levels.SIGNED).integers(codes ^ (1 << (k - 1)))
        assert (2 * signed + 1).tolist() == values


@pytest.mark.parametrize("fmt", [IntegerFormat(30, levels) for levels in Levels], ids=str)
def test_wide_codes(fmt: IntegerFormat) -> None:
    codes = np.array([0, 1, (1 << 29) - 1, 1 << 29, (1 << 30) - 1], np.uint32)
    assert fmt.decode(codes).dtype == np.float64
    assert np.array_equal(fmt.encode(fmt.decode(codes)), codes)
    assert np.array_equal(fmt.codes(fmt.integers(codes)), codes)


def test_rounding() -> None:
    x = [-9, -0.5, 0.4, 0.5, 1.5, 2.5, 3.5, np.inf]
    assert IntegerFormat(2).round(x).tolist() == [0, 0, 0, 0, 2, 2, 3, 3]
    assert IntegerFormat(3, Levels.SIGNED).round([-9, -2.5, -1.5, 1.5, 9]).tolist() == [-4, -2, -2, 2, 3]
    odd = IntegerFormat(2, Levels.ODD)
    # Ties between the levels −3, −1, 1, 3 go to the codes 0, 2, 2.
    assert odd.round([-9, -2, -1.9, -0.1, 0, 0.1, 2, 2.1]).tolist() == [-3, -3, -1, -1, 1, 1, 1, 3]
    assert odd.round([-2.5, -0.5, 0, 0.5, 2.5], "truncate").tolist() == [-1, -1, 1, 1, 1]
    with pytest.raises(ValueError, match="values hold NaN, but odd2 has no code for it"):
        odd.encode([np.nan])


@pytest.mark.parametrize("fmt", [IntegerFormat(3, levels) for levels in Levels], ids=str)
def test_stochastic_rounding_is_right_on_average(fmt: IntegerFormat) -> None:
    lfsr = LFSR(1)
    for value in (fmt.lowest + 0.3 * fmt.step, fmt.highest - 0.7 * fmt.step, float(fmt.highest)):
        rounded = fmt.round(np.full(4000, value), "stochastic", random=lfsr.draws(4000, 16))
        assert abs(rounded.mean() - value) < 0.05 * fmt.step


#: The kernels: of dot instructions, where the processor has them, and of float32 products.
KERNELS = [True, False] if dots.AVAILABLE else [False]


def both(arithmetic: Integer, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What `gemm` gives, the same by either kernel, and in C's order."""
    found = []
    for by_dots in KERNELS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dots, "AVAILABLE", by_dots)
            found.append(arithmetic.gemm(a, b))
    assert all(np.array_equal(codes, found[0]) and codes.flags.c_contiguous for codes in found)
    return found[0]


def codes_of(
    fmt: IntegerFormat, shape: tuple[int, int], across: bool, rng: np.random.Generator
) -> np.ndarray:
    """Random codes, the lowest and the highest often; `across` they lie in Fortran's order."""
    codes = rng.integers(0, 1 << fmt.bits, shape).astype(np.uint8)
    ends = fmt.codes(np.array([fmt.lowest, fmt.highest]))
    codes = np.where(rng.random(shape) < 0.5, rng.choice(ends, shape), codes)
    return np.asfortranarray(codes) if across else codes


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0]} times {pair[1]}")
def test_the_kernels_are_the_definition(pair: tuple[IntegerFormat, IntegerFormat]) -> None:
    for seed, (m, k, n) in enumerate([(1, 1, 1), (2, 5, 17), (13, 7, 3)]):
        rng = np.random.default_rng(seed)
        a, b = codes_of(pair[0], (m, k), bool(seed & 1), rng), codes_of(pair[1], (k, n), m == 13, rng)
        arithmetic = Integer.of(*pair, k)
        assert np.array_equal(both(arithmetic, a, b), arithmetic.definition(a, b))


EDGES = st.sampled_from([0, 1, 2, 3, 4, 5, 11, 12, 13, 15, 16, 17, 31, 32, 33, 63, 64, 65])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(PAIRS), EDGES, EDGES, EDGES, st.booleans(), st.booleans(), st.integers(0, 1 << 32))
def test_any_shape(
    pair: tuple[IntegerFormat, IntegerFormat], m: int, k: int, n: int, left: bool, right: bool, seed: int
) -> None:
    """Sides at the edges of tiles, vectors and words, and none at all, in either order of memory."""
    rng = np.random.default_rng(seed)
    a, b = codes_of(pair[0], (m, k), left, rng), codes_of(pair[1], (k, n), right, rng)
    arithmetic = Integer.of(*pair, max(k, 1))
    sums = arithmetic.result.integers(both(arithmetic, a, b))
    assert np.array_equal(sums, pair[0].integers(a) @ pair[1].integers(b))


@pytest.mark.parametrize("levels", list(Levels))
def test_many_blocks(levels: Levels) -> None:
    """More rows, products and columns than are packed at once, in either order of memory; on one thread and
    on several; parts of larger matrices; codes that cannot be written."""
    pair, rng = (IntegerFormat(8, Levels.SIGNED), IntegerFormat(8, levels)), np.random.default_rng(1)
    arithmetic = Integer.of(*pair, 2100)
    threads = numba.get_num_threads()
    for across in (False, True):
        a, b = codes_of(pair[0], (500, 2100), across, rng), codes_of(pair[1], (2100, 120), across, rng)
        sums = pair[0].decode(a).astype(np.float64) @ pair[1].decode(b).astype(np.float64)
        a.flags.writeable = False
        try:
            for count in {1, threads}:
                numba.set_num_threads(count)
                for x, y, part in (
                    (a, b, np.s_[:, :]),
                    (a[3::2], b, np.s_[3::2, :]),
                    (a[:2], b[:, 1:], np.s_[:2, 1:]),
                ):
                    assert np.array_equal(arithmetic.result.integers(both(arithmetic, x, y)), sums[part])
        finally:
            numba.set_num_threads(threads)


def test_a_processor_without_the_instruction() -> None:
    """Numba compiles for another processor if it is told to, and then nothing needs this one's."""
    script = """
import numpy as np
from quaver.golden.arithmetic import Integer
from quaver.golden.kernels import dots
codes = np.arange(12, dtype=np.uint8).reshape(3, 4)
print(dots.AVAILABLE, (Integer().gemm(codes, codes.T) == Integer().definition(codes, codes.T)).all())
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"NUMBA_CPU_NAME": "generic"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("levels", [Levels.SIGNED, Levels.ODD])
def test_the_accumulator_is_as_wide_as_k_needs(bits: int, levels: Levels) -> None:
    """The longest sums either way fit; of one product more they do not where both ends are alike."""
    a, b = IntegerFormat(bits), IntegerFormat(bits, levels)
    arithmetic = Integer.of(a, b, 300)
    limit, k = 1 << (arithmetic.accumulator_bits - 1), arithmetic.chunk
    assert k >= 300
    assert (k + 1) * largest_product(a, b) >= limit > k * largest_product(a, b)
    assert accumulator_bits(a, b, k) == arithmetic.accumulator_bits == accumulator_bits(a, b, k + 1) - 1
    top = np.full((1, k), (1 << bits) - 1, np.uint8)
    ends = b.codes(np.array([[b.lowest, b.highest]])).repeat(k, axis=0)
    wanted = [k * a.highest * b.lowest, k * a.highest * b.highest]
    for codes in (both(arithmetic, top, ends), arithmetic.definition(top, ends)):
        assert arithmetic.result.integers(codes).tolist() == [wanted]
    with pytest.raises(ValueError, match=rf"K is {k + 1}, but .*; take {arithmetic.accumulator_bits + 1}$"):
        arithmetic.gemm(np.zeros((1, k + 1), np.uint8), np.zeros((k + 1, 1), np.uint8))


def test_long_sums_of_wide_operands() -> None:
    """Beyond 2**24, where no float32 holds every sum: all of them as large as they can be."""
    arithmetic = Integer.of(IntegerFormat(8), IntegerFormat(8, Levels.ODD), 33_000)
    a, b = np.full((1, 33_000), 255, np.uint8), np.full((33_000, 1), 255, np.uint8)
    a[0, :7], b[:3] = 254, 0
    exact = sum(int(x) * (2 * int(y) - 255) for x, y in zip(a[0], b[:, 0], strict=True))
    assert exact == 255 * (255 * 32_993 + 254 * 4 - 254 * 3) > 1 << 30
    assert arithmetic.result.integers(both(arithmetic, a, b)) == exact
    with pytest.raises(ValueError, match="cut K into pieces and add up their results"):
        arithmetic.gemm(np.zeros((1, 40_000), np.uint8), np.zeros((40_000, 1), np.uint8))


def test_nothing_to_sum_up() -> None:
    assert both(Integer(), np.zeros((2, 0), np.uint8), np.zeros((0, 3), np.uint8)).tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: IntegerFormat(0), ValueError, "bits is 0, but an integer format has 1 to 32"),
        (lambda: IntegerFormat(33), ValueError, "bits is 33, but an integer format has 1 to 32"),
        (lambda: IntegerFormat(4, "even"), ValueError, "'even' is not a valid Levels"),
        (lambda: Integer(a=4), TypeError, "a is 4, but it must be an IntegerFormat, e.g. IntegerFormat(4)"),
        (
            lambda: Integer(b=IntegerFormat(9)),
            ValueError,
            "b is uint9, 9 bits, but operands have at most 8; take fewer",
        ),
        (
            lambda: Integer(IntegerFormat(2, Levels.ODD), IntegerFormat(2, Levels.ODD)),
            ValueError,
            "a is odd2 and b is odd2, but products of odd numbers are never 0",
        ),
        (
            lambda: Integer(accumulator_bits=8),
            ValueError,
            "accumulator_bits is 8, but sums of products of uint4 and odd4 take 9 … 32",
        ),
        (
            lambda: Integer().gemm(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), seed=1),
            ValueError,
            "seed is 1, but Integer(",
        ),
    ],
)
def test_refusals(make, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        make()
