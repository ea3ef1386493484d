"""Fixed-point formats: every code, every rounding against fractions, both ends."""

from fractions import Fraction

import numpy as np
import pytest

from quaver.golden.formats import FixedFormat, parse
from quaver.golden.rounding import round_integer

FORMATS = [FixedFormat(8, 8), FixedFormat(2, 14), FixedFormat(3, 5), FixedFormat(-5, 12), FixedFormat(20, -4)]


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_every_code_there_and_back(fmt):
    codes = np.arange(1 << fmt.width, dtype=fmt.code_dtype)
    values = fmt.decode(codes)
    assert values.dtype == np.float32
    assert values[0] == 0
    assert values[fmt.max_code] == fmt.max_value
    assert values[fmt.max_code + 1] == -(2.0 ** (fmt.integer_bits - 1))
    assert np.array_equal(
        np.sort(values)[1:] - np.sort(values)[:-1], np.full(len(codes) - 1, 2.0**-fmt.fraction_bits)
    )
    for rounding in ("nearest", "truncate"):
        assert np.array_equal(fmt.encode(values, rounding), codes)
    random = np.random.default_rng(1).integers(0, 1 << 16, len(codes))
    assert np.array_equal(fmt.encode(values, "stochastic", random=random), codes)
    assert parse(str(fmt)) == fmt


@pytest.mark.parametrize("rounding", ["nearest", "truncate", "stochastic"])
@pytest.mark.parametrize("random_bits", [1, 5, 16, 32])
def test_encode_is_the_definition(rounding, random_bits):
    fmt = FixedFormat(4, 4)
    rng = np.random.default_rng(2)
    eighths = np.arange(-80, 80) / 32 * 2  # ties, steps and between, over both ends
    values = np.concatenate([eighths * 4, rng.normal(0, 4, 2000), rng.normal(0, 1e-3, 500), [1e30, -1e30]])
    random = rng.integers(0, 1 << random_bits, len(values))
    options = dict(random=random, random_bits=random_bits) if rounding == "stochastic" else {}
    got = fmt.integers(fmt.encode(values, rounding, **options))
    for value, r, code in zip(values, random, got, strict=True):
        steps = Fraction(float(value)) * 2**fmt.fraction_bits
        exact = steps.numerator * (1 << 200) // steps.denominator  # 2**−200: all bits of these values
        assert exact * steps.denominator == steps.numerator * (1 << 200)
        wanted = round_integer(exact, 200, rounding, int(r), random_bits)
        assert code == min(max(wanted, -128), 127)


def test_round_integer_stochastic_is_a_floor():
    for value in range(-70, 70):
        for random in range(8):
            assert round_integer(value, 4, "stochastic", random, 3) == ((value >> 1) + random) >> 3
        ups = sum(round_integer(value, 3, "stochastic", r, 3) for r in range(8))
        assert ups == value  # unbiased on either side of zero, to the bit
    assert round_integer(-3, -2, "stochastic", 7, 3) == -12


def test_round_integer_nearest_and_truncate_are_symmetric():
    for value in range(-70, 70):
        for rounding in ("nearest", "truncate"):
            assert round_integer(-value, 3, rounding) == -round_integer(value, 3, rounding)
    assert [round_integer(v, 1) for v in (-3, -1, 1, 3, 5)] == [-2, 0, 0, 2, 2]


def test_ends():
    fmt = FixedFormat(2, 2)
    assert fmt.round([np.inf, -np.inf, 1.75, 1.8, -2, -2.1, 1.875, 5]).tolist() == [
        *(1.75, -2, 1.75, 1.75, -2, -2, 1.75, 1.75)
    ]
    assert fmt.encode(-0.0) == 0
    with pytest.raises(ValueError, match="values hold NaN, but q2\\.2 has no code for it"):
        fmt.encode([0.0, np.nan])


def test_shapes_and_strides():
    fmt = FixedFormat(8, 8)
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    assert fmt.encode(values).shape == (4, 2, 3)
    assert np.array_equal(fmt.round(values), values)
    assert np.array_equal(fmt.decode(fmt.encode(values).T), values.T)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ((1, 0), "1 \\+ 0 = 1 bits"),
        ((12, 13), "25 bits, but fixed point has 2 to 24"),
        ((-60, 70), "fraction_bits is 70"),
    ],
)
def test_bad_parameters(bits, message):
    with pytest.raises(ValueError, match=message):
        FixedFormat(*bits)


def test_bad_codes():
    with pytest.raises(TypeError, match="codes has dtype float64, but codes are unsigned integers"):
        FixedFormat(8, 8).decode([0.5])
    with pytest.raises(ValueError, match="codes holds 32, but codes of q2\\.3 are 0 … 31"):
        FixedFormat(2, 3).decode([32])
    with pytest.raises(ValueError, match="but it must be one of"):
        parse("q8")
