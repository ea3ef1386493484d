"""The three roundings on integers: every small case against fractions, and stochastic rounding's odds."""

from fractions import Fraction

import numpy as np
import pytest

from quaver.golden.formats import FP8, FP16
from quaver.golden.lfsr import LFSR
from quaver.golden.rounding import Rounding, round_magnitude

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
