"""The three roundings on integers: every small case against fractions, and stochastic rounding's odds."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest

from quaver.golden import exact
from quaver.golden.formats import FP8, FP16, FixedFormat, FloatFormat, IntegerFormat, Levels, parse
from quaver.golden.lfsr import LFSR
from quaver.golden.rounding import Rounding, round_integer, round_integers, round_magnitude

SMALL = [(magnitude, dropped) for magnitude in range(128) for dropped in range(7)]


def test_nearest_even_and_toward_zero():
    for magnitude, dropped in SMALL:
        value = Fraction(magnitude, 1 << dropped)
        assert round_magnitude(magnitude, dropped) == round(value)  # Python rounds ties of a Fraction to even
        assert round_magnitude(magnitude, dropped, Rounding.TOWARD_ZERO) == value.__floor__()


@pytest.mark.parametrize("random_bits", [1, 4, 6])
def test_stochastic_goes_up_with_exactly_the_odds_of_what_it_drops(random_bits):
    for magnitude, dropped in SMALL:
        everything = range(1 << random_bits)
        rounded = [round_magnitude(magnitude, dropped, "stochastic", r, random_bits) for r in everything]
        kept = magnitude >> dropped
        assert set(rounded) <= {kept, kept + 1}
        assert rounded == sorted(rounded)  # a larger number never rounds down where a smaller one goes up
        # what is dropped, cut to random_bits, is how many of the random numbers go up
        cut = Fraction(magnitude - (kept << dropped), 1 << dropped) * (1 << random_bits)
        assert rounded.count(kept + 1) == cut.__floor__()


def test_nothing_dropped_nothing_rounded():
    for rounding in Rounding:
        assert round_magnitude(5, 0, rounding, random=65535) == 5
        assert round_magnitude(5, -3, rounding, random=65535) == 40


def test_a_carry_into_one_more_bit():
    assert round_magnitude(0b1111_1, 1) == 0b10000
    assert round_magnitude(0b1111_1, 1, Rounding.TOWARD_ZERO) == 0b1111


def test_bad_input():
    with pytest.raises(ValueError, match="a magnitude is never negative, got -1; keep the sign aside"):
        round_magnitude(-1, 2)
    for random in (-1, 16):
        with pytest.raises(ValueError, match=f"random is {random}, but 4 random bits hold 0 … 15"):
            round_magnitude(5, 2, "stochastic", random, 4)
    with pytest.raises(ValueError, match="'down' is not a valid Rounding"):
        round_magnitude(5, 2, "down")


@pytest.mark.parametrize("fmt", [FP8, FP16], ids=str)
@pytest.mark.parametrize("fraction", [0.0, 1 / 3, 0.5, 0.999])
@pytest.mark.parametrize("base", ["normal", "subnormal"])
def test_the_average_of_stochastic_roundings_is_the_value(fmt, fraction, base):
    code = {"normal": 0x35 << (fmt.width - 8), "subnormal": 1}[base]
    low, high = fmt.decode([code, code + 1]).astype(np.float64)
    value = low + fraction * (high - low)
    count = 200_000
    codes = fmt.encode(np.full(count, value), "stochastic", random=LFSR(77).draws(count, 16))
    ups = np.count_nonzero(codes == code + 1)
    assert ups + np.count_nonzero(codes == code) == count
    assert abs(ups - fraction * count) <= 5 * (count * fraction * (1 - fraction)) ** 0.5 + count / 65536
    mirrored = fmt.encode(np.full(count, -value), "stochastic", random=LFSR(77).draws(count, 16))
    assert np.array_equal(mirrored, codes | fmt.sign_code)  # magnitudes are rounded: signs change nothing


VARIANTS = [Rounding.STOCHASTIC, Rounding.STOCHASTIC_B, Rounding.STOCHASTIC_C]


def p3109(variant: Rounding, magnitude: int, dropped: int, random: int, bits: int) -> int:
    """The interim report's formulas, on the dropped part ν."""
    kept, nu = divmod(Fraction(magnitude, 1 << dropped), 1)
    up = {
        Rounding.STOCHASTIC: floor(nu * 2**bits) + random >= 2**bits,
        Rounding.STOCHASTIC_B: floor(nu * 2 ** (bits + 1)) + 2 * random + 1 >= 2 ** (bits + 1),
        Rounding.STOCHASTIC_C: round(nu * 2**bits) + random >= 2**bits,
    }
    return int(kept) + up[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variants_are_p3109s(variant: Rounding) -> None:
    for dropped in range(6):
        for bits in (1, 2, 3, 6):
            for magnitude in range(3 << dropped):
                for random in range(1 << bits):
                    expected = p3109(variant, magnitude, dropped, random, bits)
                    assert round_magnitude(magnitude, dropped, variant, random, bits) == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_value_and_draw_of_the_formats(variant: Rounding) -> None:
    """Floats with and without subnormals in sight, and fixed point, against the definition."""
    steps = np.arange(-400, 400) / 64
    for bits in (1, 3):
        draws = np.tile(np.arange(1 << bits, dtype=np.uint16), len(steps))
        x = np.repeat(steps, 1 << bits)
        for fmt in (FloatFormat(3, 2), FloatFormat(4, 3), FP16):
            scaled = (x * 2.0 ** (fmt.min_exponent - 1)).astype(np.float32)
            codes = fmt.encode(scaled, variant, random=draws, random_bits=bits)
            for value, draw, code in zip(scaled.tolist(), draws.tolist(), codes.tolist(), strict=True):
                exactly = Fraction(value) if value else value
                assert code == exact.encode(fmt, exactly, variant, draw, bits)
        fixed = FixedFormat(4, 1)
        codes = fixed.integers(fixed.encode(x, variant, random=draws, random_bits=bits))
        for value, draw, code in zip(x.tolist(), draws.tolist(), codes.tolist(), strict=True):
            assert code == round_integer(int(value * 64), 5, variant, draw, bits)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["int4", "uint4", "odd3"])
def test_integer_formats_round_by_the_variants(name: str, variant: Rounding) -> None:
    """From the value below, however near to it a number lies."""
    fmt = parse(name)
    assert isinstance(fmt, IntegerFormat)
    values = np.concatenate([np.arange(-80, 80) / 8, [-1e-20, 1e-20, -1 - 1e-15]])
    for bits in (1, 2, 3):
        for draw in range(1 << bits):
            drawn = np.full(len(values), draw, np.uint16)
            found = fmt.integers(fmt.encode(values, variant, random=drawn, random_bits=bits))
            for value, integer in zip(values.tolist(), found.tolist(), strict=True):
                limited = min(max(Fraction(value), fmt.lowest), fmt.highest)
                above = Fraction(limited - fmt.lowest, fmt.step)
                dropped = above.denominator.bit_length() - 1
                place = min(p3109(variant, above.numerator, dropped, draw, bits), (1 << fmt.bits) - 1)
                assert integer == fmt.lowest + fmt.step * place, (value, draw)
    with pytest.raises(ValueError, match=r"random_bits is 32, but int30 rounds by at most 30 of them"):
        IntegerFormat(30, Levels.SIGNED).encode([0.5], variant, random=[1], random_bits=32)


@pytest.mark.parametrize("name", ["int1", "int8", "uint8", "odd3", "odd8", "int32"])
def test_integer_formats_round_numbers_next_to_a_tie_once(name: str) -> None:
    """To nearest and toward zero, against fractions."""
    fmt = parse(name)
    assert isinstance(fmt, IntegerFormat)
    ties = np.concatenate([np.arange(-12, 13) / 2, [fmt.lowest + 0.5, fmt.highest - 0.5, fmt.highest / 2]])
    values = np.concatenate([ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf)])
    for rounding in (Rounding.NEAREST_EVEN, Rounding.TOWARD_ZERO):
        found = fmt.integers(fmt.encode(values, rounding)).tolist()
        for value, integer in zip(values.tolist(), found, strict=True):
            above = (min(max(Fraction(value), fmt.lowest), fmt.highest) - fmt.lowest) / fmt.step
            place = round(above)  # Python's, of a fraction: to nearest even
            if fmt.levels is not Levels.ODD:  # of which an even code may be any integer
                place = round(above + fmt.lowest) - fmt.lowest
            if rounding is Rounding.TOWARD_ZERO:
                zero = Fraction(-fmt.lowest, fmt.step)
                place = min(ceil(above), floor(zero)) if value < 0 else max(floor(above), ceil(zero))
            assert integer == fmt.lowest + fmt.step * place, (value, rounding)


def test_only_the_first_is_biased_with_few_bits() -> None:
    fine, bits = 10, 3
    magnitudes = range(1 << fine)
    bias = {
        variant: sum(
            round_magnitude(m, fine, variant, r, bits) * (1 << fine) - m for m in magnitudes for r in range(8)
        )
        / (8 << 2 * fine)
        for variant in VARIANTS
    }
    assert bias[Rounding.STOCHASTIC] == pytest.approx(-(2.0**-4), rel=0.02)
    assert abs(bias[Rounding.STOCHASTIC_B]) < 2.0**-10
    assert abs(bias[Rounding.STOCHASTIC_C]) < 2.0**-10


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("bits", [1, 5, 8])
def test_an_array_of_integers_rounds_as_one(rounding: Rounding, bits: int) -> None:
    rng = np.random.default_rng(bits)
    values, random = rng.integers(-5000, 5000, 300), rng.integers(0, 1 << bits, 300)
    for dropped in (0, 1, 3, 5, 9):
        pairs = zip(values.tolist(), random.tolist(), strict=True)
        expected = [round_integer(x, dropped, rounding, r * rounding.draws, bits) for x, r in pairs]
        found = round_integers(values, dropped, rounding, random if rounding.draws else None, bits)
        np.testing.assert_array_equal(found, expected)
