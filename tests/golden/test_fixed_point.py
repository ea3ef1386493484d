"""Fixed-point GEMMs: kernel against definition, saturation, whose random bits they are, and their moments."""

import numpy as np
import pytest

from quaver.golden.arithmetic import ARITHMETICS
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.formats import FixedFormat
from quaver.golden.nn.recipes import fixed16, fixed16_nearest
from quaver.golden.random_bits import draws_of

SHAPES = [(5, 7, 9), (1, 1, 1), (3, 200, 2), (0, 4, 2), (2, 0, 3), (4, 3, 0)]
ARITHMETIC = [
    FixedPoint(),
    FixedPoint(rounding="nearest"),
    FixedPoint(FixedFormat(6, 10), FixedFormat(2, 14), FixedFormat(6, 10)),
    FixedPoint(FixedFormat(6, 10), FixedFormat(2, 14), FixedFormat(-4, 20), random_bits=32),
    FixedPoint(FixedFormat(2, 6), FixedFormat(1, 7), FixedFormat(4, 4), random_bits=3, accumulator_bits=24),
    FixedPoint(FixedFormat(4, 0), FixedFormat(2, 6), FixedFormat(8, 4), accumulator_bits=20),
    FixedPoint(FixedFormat(4, 16), FixedFormat(2, 18), FixedFormat(4, 16)),
    FixedPoint(FixedFormat(2, 22), FixedFormat(2, 22), FixedFormat(2, 22), accumulator_bits=63),
    FixedPoint(FixedFormat(8, 8), FixedFormat(16, 0), FixedFormat(16, 8), rounding="nearest"),
]


def random_codes(fmt, shape, rng, spread=1.0, ends=0.1):
    """Codes over part of the range, some of them at its ends."""
    integers = (rng.uniform(-1, 1, shape) * (fmt.max_code + 1) * spread).astype(np.int64)
    at_end = rng.random(shape) < ends
    integers = np.where(at_end, rng.choice([~fmt.max_code, fmt.max_code, -1, 0, 1], shape), integers)
    return fmt.codes(integers)


@pytest.mark.parametrize("arithmetic", ARITHMETIC, ids=str)
def test_gemm_is_the_definition(arithmetic):
    rng = np.random.default_rng(1)
    for M, K, N in SHAPES:
        for spread in (1.0, 0.02):
            a = random_codes(arithmetic.a, (M, K), rng, spread)
            b = random_codes(arithmetic.b, (K, N), rng, spread)
            seed = 77 if arithmetic.stochastic else None
            got = arithmetic.gemm(a, b, seed=seed)
            assert got.dtype == arithmetic.result.code_dtype
            assert got.shape == (M, N)
            assert np.array_equal(got, arithmetic.definition(a, b, seed=seed))


def test_sums_beyond_float64_are_exact():
    fmt = FixedFormat(2, 22)
    arithmetic = FixedPoint(fmt, fmt, FixedFormat(18, 6), "nearest", accumulator_bits=63)
    rng = np.random.default_rng(2)
    a, b = random_codes(fmt, (3, 3000), rng), random_codes(fmt, (3000, 4), rng)
    a[:] |= 1  # odd codes: a float64 sum would lose their last bits
    assert np.array_equal(arithmetic.gemm(a, b), arithmetic.definition(a, b))


def test_every_edge_of_saturation():
    """Sums one step around each end, whatever the rounding."""
    fmt = FixedFormat(8, 8)
    for rounding in ("nearest", "stochastic"):
        arithmetic = FixedPoint(fmt, fmt, FixedFormat(2, 6), rounding, random_bits=10)
        seed = 5 if arithmetic.stochastic else None
        for end in (-128, 127):
            for z in range((end - 2) << 10, (end + 2) << 10, 37):  # in steps of 2**−16; the result's is 2**−6
                # z = p·q + r with codes of 16 bits
                q = 128
                p, r = divmod(z, q)
                a, b = fmt.codes(np.array([[p, r]])), fmt.codes(np.array([[q], [1]]))
                got = arithmetic.gemm(a, b, seed=seed)
                assert np.array_equal(got, arithmetic.definition(a, b, seed=seed))
                value = int(arithmetic.result.integers(got)[0, 0])
                assert -128 <= value <= 127
                assert abs(value - min(max(z / 1024, -128), 127)) <= 1


def test_random_bits_are_those_of_an_output_s_first_sum():
    """Half a step decides by the top random bit alone."""
    fmt = FixedFormat(8, 8)
    arithmetic = FixedPoint(fmt, fmt, fmt, random_bits=16)
    a = fmt.codes(np.full((40, 1), 8))
    b = fmt.codes(np.full((1, 30), 16))  # 8·16 = 128 of 256: a half
    got = arithmetic.gemm(a, b, seed=99)
    assert np.array_equal(got, [[next(draws_of(99, i, j, 16)) >> 15 for j in range(30)] for i in range(40)])


def test_the_bits_do_not_depend_on_what_lies_around():
    arithmetic = FixedPoint()
    rng = np.random.default_rng(3)
    a, b = (
        random_codes(arithmetic.a, (20, 30), rng, 0.1, 0),
        random_codes(arithmetic.b, (30, 25), rng, 0.1, 0),
    )
    whole = arithmetic.gemm(a, b, seed=3)
    assert np.array_equal(whole[:7, :9], arithmetic.gemm(a[:7], b[:, :9], seed=3))
    assert not np.array_equal(whole, arithmetic.gemm(a, b, seed=4))
    swapped = FixedPoint(arithmetic.b, arithmetic.a, arithmetic.result)
    assert np.array_equal(whole, swapped.gemm(a, b, seed=3))


@pytest.mark.parametrize("sign", [1, -1])
def test_stochastic_rounding_is_unbiased_and_its_errors_uncorrelated(sign):
    """Over seeds, each of many outputs: mean error, and the variance of their sum, within sampling error."""
    fmt = FixedFormat(4, 12)
    arithmetic = FixedPoint(fmt, fmt, FixedFormat(8, 8))
    rng = np.random.default_rng(4)
    a, b = random_codes(fmt, (16, 24), rng, 0.3, 0), random_codes(fmt, (24, 16), rng, 0.3, 0)
    a = fmt.codes(sign * fmt.integers(a).astype(np.int64))
    exact = fmt.decode(a).astype(np.float64) @ fmt.decode(b).astype(np.float64) * 2**8
    seeds = np.random.default_rng(5).integers(1, 1 << 32, 4000)
    errors = np.array([arithmetic.result.integers(arithmetic.gemm(a, b, seed=int(s))) - exact for s in seeds])
    fraction = exact - np.floor(exact)
    deviation = np.sqrt(fraction * (1 - fraction))
    assert np.abs(errors).max() < 1
    assert (np.abs(errors.mean(axis=0)) < 5 * deviation / np.sqrt(len(seeds)) + 2.0**-16).all()
    # The sum over all 256 outputs has the variance of independent errors.
    ratio = errors.sum(axis=(1, 2)).var() / (deviation**2).sum()
    assert abs(ratio - 1) < 5 * np.sqrt(2 / len(seeds))


def test_on_integers_the_codes_are_the_same():
    hidden = fixed16.hidden
    assert hidden.forward.hardware == hidden.backward.hardware != hidden.gradient.hardware
    rng = np.random.default_rng(8)
    a, b = (rng.integers(0, 1 << 16, shape).astype(np.uint16) for shape in ((5, 9), (9, 4)))
    for arithmetic in (hidden.forward, hidden.backward, hidden.gradient, fixed16_nearest.hidden.forward):
        seed = 3 if arithmetic.stochastic else None
        on_integers = arithmetic.hardware
        assert on_integers.hardware == on_integers
        assert np.array_equal(arithmetic.gemm(a, b, seed=seed), on_integers.gemm(a, b, seed=seed))


def test_listed():
    assert ARITHMETICS["fixed_point"] is FixedPoint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rounding="truncate"), "rounding is 'truncate', but it must be one of nearest, stochastic"),
        (dict(random_bits=33), "random_bits is 33, but stochastic rounding takes 1 … 32"),
        (
            dict(accumulator_bits=31),
            "accumulator_bits is 31, but sums of products of 16-bit and 16-bit operands take 32",
        ),
        (dict(result=FixedFormat(0, 17)), "result is q0.17, but the products have 8 \\+ 8 fraction bits"),
    ],
)
def test_bad_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        FixedPoint(**options)


def test_bad_operands():
    arithmetic = FixedPoint(accumulator_bits=32)
    assert arithmetic.chunk == 1
    one = np.zeros((1, 1), np.uint16)
    with pytest.raises(ValueError, match="K is 2, but 32 accumulator bits hold any sum of 1 products"):
        arithmetic.gemm(np.zeros((1, 2), np.uint16), np.zeros((2, 1), np.uint16), seed=1)
    with pytest.raises(ValueError, match="seed is None, but random bits need one"):
        arithmetic.gemm(one, one)
    with pytest.raises(TypeError, match="a is 16, but it must be a FixedFormat"):
        FixedPoint(a=16)
    with pytest.raises(ValueError, match="disagree on K: 1 columns against 2 rows"):
        arithmetic.gemm(one, np.zeros((2, 1), np.uint16), seed=1)
