"""Sign and magnitude: every code, every tie, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from quaver.golden.formats import SignMagnitudeFormat, parse
from quaver.golden.lfsr import LFSR
from quaver.golden.rounding import Rounding, round_magnitude

WIDTHS = [2, 3, 8, 9, 13, 16]


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_code(bits: int) -> None:
    fmt, top = SignMagnitudeFormat(bits), 1 << (bits - 1)
    codes = np.arange(1 << bits, dtype=fmt.code_dtype)
    values = [(q if q < top else top - q) / top for q in range(1 << bits)]
    assert fmt.decode(codes).tolist() == values
    assert (fmt.integers(codes) / top).tolist() == values
    again = codes.copy()
    again[top] = 0  # the second zero
    for rounding in ("nearest", "truncate"):
        assert np.array_equal(fmt.encode(values, rounding), again)
    assert np.array_equal(fmt.codes(fmt.integers(codes)), again)
    assert parse(str(fmt)) == fmt
    assert max(values) == fmt.max_value


@pytest.mark.parametrize("rounding", Rounding)
def test_rounding_is_that_of_the_magnitude(rounding: Rounding) -> None:
    fmt, lfsr = SignMagnitudeFormat(4), LFSR(1)
    x = np.linspace(-1.25, 1.25, 321)
    random = lfsr.draws(len(x), 5) if rounding.draws else None
    found = fmt.integers(fmt.encode(x, rounding, random=random, random_bits=5))
    draws = np.zeros(len(x), int) if random is None else random
    for value, draw, steps in zip(x, draws, found, strict=True):
        n, d = (abs(Fraction(float(value))) * 8).as_integer_ratio()
        shift = d.bit_length() - 1
        wanted = round_magnitude(n, shift, rounding, int(draw), 5) if shift else n
        assert steps == (-1 if value < 0 else 1) * min(wanted, 7)


def test_refusals() -> None:
    for bits in (1, 17):
        with pytest.raises(ValueError, match=f"bits is {bits}, but sign and magnitude have 2 to 16"):
            SignMagnitudeFormat(bits)
    with pytest.raises(ValueError, match="values hold NaN, but sm8 has no code for it"):
        SignMagnitudeFormat(8).encode([np.nan])
    assert SignMagnitudeFormat(3).round([np.inf, -np.inf]).tolist() == [0.75, -0.75]
