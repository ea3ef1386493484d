"""DLFloat: no subnormals, one code for NaN and infinity, ties away from zero; in GEMMs and updates too."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from quaver.golden import data, exact
from quaver.golden.arithmetic import ChunkedFloat
from quaver.golden.formats import BFLOAT16, DLFLOAT, E4M3, FP8, FP16, FloatFormat, parse
from quaver.golden.nn import models, recipes
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
from quaver.golden.rounding import Rounding
from quaver.golden.update.float_sgd import FloatSGD
from quaver.rtl.float.adder import FloatAdder
from quaver.rtl.pe import pe_for

CODES = np.arange(1 << 16, dtype=np.uint16)


def some_floats(count: int) -> np.ndarray:
    """Every finite value, every tie, their neighbours, and others in and beyond the range."""
    rng = np.random.default_rng(1)
    finite = np.unique(DLFLOAT.decode(CODES)[(CODES & 0x7FFF) != 0x7FFF])
    ties = (finite[1:] + finite[:-1]) / np.float32(2)
    near = np.concatenate([np.nextafter(ties, np.float32(end)) for end in (-np.inf, np.inf)])
    wide = rng.normal(size=count) * 2.0 ** rng.integers(-36, 36, count)
    edges = [0.0, -0.0, 2.0**-31, -(2.0**-31), 2.0**-32, 2.0**33, -(2.0**40), np.inf, -np.inf, np.nan]
    return np.concatenate([finite, ties, near, wide.astype(np.float32), np.float32(edges)])


def test_what_codes_mean() -> None:
    assert DLFLOAT.decode([0x0001, 0x01FF, 0x0200, 0x3E00, 0x7FFE]).tolist() == [
        2.0**-31 * (1 + 2**-9),
        2.0**-31 * (2 - 2**-9),
        2.0**-30,
        1.0,
        2.0**32 * (2 - 2**-8),
    ]
    zeros = DLFLOAT.decode([0x0000, 0x8000])
    assert zeros.tolist() == [0, 0]
    assert np.signbit(zeros).tolist() == [False, True]
    assert np.isnan(DLFLOAT.decode([0x7FFF, 0xFFFF])).all()
    assert DLFLOAT.max_value == 2.0**32 * (2 - 2**-8)
    some = CODES[::7]
    for code, value in zip(some.tolist(), DLFLOAT.decode(some).tolist(), strict=True):
        defined = exact.decode(DLFLOAT, code)
        assert np.isnan(value) if defined != defined else defined == value


def test_nearest_against_the_bits_of_float32() -> None:
    """Half a step is added to a float32's word, the rest cut, the exponent rebased, the ends clamped."""
    x = some_floats(100_000)
    word = (x.view(np.uint32) & 0x7FFFFFFF).astype(np.int64)
    code = np.clip((word + (1 << 13) >> 14) - ((127 - 31) << 9), 0, 0x7FFF)
    sign = np.where(np.signbit(x) & (code != 0x7FFF), 0x8000, 0)
    assert np.array_equal(DLFLOAT.encode(x), code | sign)


@pytest.mark.parametrize("saturate", [False, True])
@pytest.mark.parametrize("rounding", [Rounding.NEAREST_EVEN, Rounding.TOWARD_ZERO, Rounding.STOCHASTIC])
def test_every_rounding_is_the_definitions(rounding: Rounding, saturate: bool) -> None:
    rng = np.random.default_rng(2)
    x = rng.choice(some_floats(10_000), 2000)
    x[-10:] = some_floats(0)[-10:]
    random = rng.integers(0, 1 << 7, len(x), dtype=np.uint16)
    drawn = {"random": random, "random_bits": 7} if rounding.draws else {}
    codes = DLFLOAT.encode(x, rounding, saturate=saturate, **drawn)  # type: ignore[arg-type]
    for value, bits, code in zip(x.tolist(), random.tolist(), codes.tolist(), strict=True):
        number = Fraction(value) if np.isfinite(value) and value else value
        assert code == exact.encode(DLFLOAT, number, rounding, bits, 7, saturate)


def test_a_name_for_it() -> None:
    assert str(DLFLOAT) == "e6m9dl"
    assert parse("dlfloat") == parse("1-6-9dl") == parse(str(DLFLOAT)) == DLFLOAT


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("operand", [DLFLOAT, FP8], ids=str)
@pytest.mark.parametrize("scale", [-16, 0, 16])
def test_sums_are_the_definitions(operand, rounding: str, scale: int) -> None:
    """At both ends of the range, and in between with ties."""
    rng = np.random.default_rng(3)
    arithmetic = ChunkedFloat(operand=operand, accumulator=DLFLOAT, chunk=5, rounding=rounding)
    a, b = (operand.encode(rng.normal(size=shape) * 2.0**scale) for shape in ((9, 23), (23, 7)))
    seed = 3 if arithmetic.stochastic else None
    c = arithmetic.gemm(a, b, seed=seed)
    assert np.array_equal(c, arithmetic.definition(a, b, seed=seed))


@pytest.mark.parametrize("fmt", [DLFLOAT, FP16, FP8, E4M3, BFLOAT16], ids=str)
def test_a_format_says_where_its_ties_go(fmt: FloatFormat) -> None:
    """Of a tie above an even and above an odd code, by both encoders."""
    even = int(fmt.encode(1.0))
    for code in (even, even + 1):
        tie = fmt.decode([code, code + 1]).astype(np.float64).mean()
        wanted = code + 1 if fmt.ties_away or code % 2 else code
        assert int(fmt.encode(tie)) == int(fmt.encode(-tie)) ^ fmt.sign_code == wanted
        assert exact.encode(fmt, Fraction(tie)) == wanted
    assert fmt.ties_away == (fmt == DLFLOAT)


def test_a_tie_in_a_sum_goes_up_and_a_small_sum_is_zero() -> None:
    arithmetic = ChunkedFloat(operand=DLFLOAT, accumulator=DLFLOAT)
    tie = arithmetic.gemm(DLFLOAT.encode([[1, 2.0**-10]]), DLFLOAT.encode([[1.0], [1.0]]))
    assert DLFLOAT.decode(tie) == 1 + 2**-9
    step = DLFLOAT.encode([[2.0**-30 * (1 + 2**-9), -(2.0**-30)]])
    assert DLFLOAT.decode(arithmetic.gemm(step, DLFLOAT.encode([[1.0], [1.0]]))) == 0


@pytest.mark.parametrize("rounding", [Rounding.NEAREST_EVEN, Rounding.STOCHASTIC])
def test_an_update_is_the_definitions(rounding: Rounding) -> None:
    rng = np.random.default_rng(4)
    rule = FloatSGD(rate=0.05, decay=1e-4, format=DLFLOAT, rounding=rounding)
    w, v, g = (DLFLOAT.encode(rng.normal(size=300) * 2.0 ** rng.integers(-32, 8, 300)) for _ in range(3))
    seed = 5 if rounding is Rounding.STOCHASTIC else None
    for fast, defined in zip(
        rule.update(w, v, g, seed=seed), rule.definition(w, v, g, seed=seed), strict=True
    ):
        assert np.array_equal(fast, defined)


def test_the_hardware_refuses_it() -> None:
    with pytest.raises(ValueError, match=r"e6m9dl, DLFloat, but the hardware .* take fp16"):
        FloatAdder(DLFLOAT)
    for operand, accumulator in ((DLFLOAT, FP16), (FP8, DLFLOAT)):
        with pytest.raises(ValueError, match="DLFloat"):
            pe_for(ChunkedFloat(operand=operand, accumulator=accumulator))


def test_it_trains() -> None:
    digits = data.load("digits")
    network = models.build("mlp", digits.shape, digits.classes)
    trainer = Trainer(network, digits, recipes.dlfloat, Settings())
    steps = [trainer.train_step() for _ in range(12)]
    assert steps[-1].loss < 0.5 * steps[0].loss
    assert not any(step.overflows for step in steps)
