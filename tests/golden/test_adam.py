"""Adam: the fast kernel equals its definition, draws, and what its FP16 state can and cannot hold."""

from fractions import Fraction
from math import inf, isnan, nan

import numpy as np
import pytest
from test_float_sgd import random_codes

import quaver.golden.update.adam
from quaver.golden import exact
from quaver.golden.formats import BFLOAT16, E4M3, FP16, HALF, FloatFormat
from quaver.golden.lfsr import LFSR
from quaver.golden.update.adam import Adam
from quaver.golden.update.float_sgd import SEED_MASKS


def codes(fmt, count, seed=1):
    rng = np.random.default_rng(seed)
    w, m, v, g = (random_codes(fmt, rng, count) for _ in range(4))
    count = min(map(len, (w, m, v, g)))
    v = np.where(rng.random(len(v)) < 0.9, v & (fmt.sign_code - 1), v).astype(fmt.code_dtype)
    return w[:count], np.stack([m[:count], v[:count]]), g[:count]


FACTORS = [
    {"rate": 0.001},
    {"rate": 0.001, "decay": 1e-4, "step": 5, "second_momentum": 0.98},
    {"rate": 1.0, "momentum": 0.5, "second_momentum": 0.5, "decay": 0.5, "epsilon": 1.0, "step": 2},  # ties
    {"rate": 0.0, "momentum": 0.0, "second_momentum": 0.0, "decay": -0.0},
]


@pytest.mark.parametrize("factors", FACTORS, ids=str)
@pytest.mark.parametrize("rounding", ["nearest", "truncate", "stochastic"])
def test_update_equals_its_definition(factors, rounding):
    rule = Adam(**factors, rounding=rounding)
    seed = 0xC0FFEE if rounding == "stochastic" else None
    operands = codes(FP16, 900)
    for fast, defined in zip(
        rule.update(*operands, seed=seed), rule.definition(*operands, seed=seed), strict=True
    ):
        assert np.array_equal(fast, defined)
        assert fast.dtype == np.uint16


@pytest.mark.parametrize("fmt", [HALF, BFLOAT16, E4M3, FloatFormat(2, 13)], ids=str)
@pytest.mark.parametrize("random_bits", [1, 24])
def test_other_formats(fmt, random_bits):
    rule = Adam(0.3, epsilon=0.0625, second_momentum=0.9, format=fmt, random_bits=random_bits)
    operands = codes(fmt, 200)
    for fast, defined in zip(rule.update(*operands, seed=5), rule.definition(*operands, seed=5), strict=True):
        assert np.array_equal(fast, defined)


def test_one_step_in_plain_numbers():
    rule = Adam(0.5, 0.75, 0.75, epsilon=1.0, decay=0.25, rounding="nearest")
    w, m, v, g = (np.array([x]) for x in (8.0, 2.0, 16.0, 4.0))
    new_w, new_mv = rule.update(*(FP16.encode(x) for x in (w, np.stack([m, v]), g)))
    g = g + 0.25 * w
    m, v = m + 0.25 * (g - m), v + 0.25 * (g**2 - v)
    assert FP16.decode(new_mv).tolist() == [m.tolist(), v.tolist()]
    root = FP16.round(FP16.round(np.sqrt(v)) + 1)
    assert FP16.decode(new_w) == FP16.round(w - 0.5 * 0.5 / 0.25 * FP16.round(m / root))


def test_follows_adam_in_float64():
    """500 steps of two-dimensional descent end where textbook Adam ends, to FP16's precision."""
    rng = np.random.default_rng(1)
    target = rng.normal(size=2000)
    w, m, v = np.zeros(2000), np.zeros(2000), np.zeros(2000)
    state = FP16.encode(w), FP16.encode(np.zeros((2, 2000)))
    for step in range(1, 301):
        g = w - target
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 0.02 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        gradient = FP16.encode(FP16.decode(state[0]) - target)
        state = Adam(0.02, step=step).update(*state, gradient, seed=step)
    error = FP16.decode(state[0]) - w
    assert np.abs(error).max() < 0.05
    assert abs(error.mean()) < 2e-3


def test_draws_are_in_memory_order_whatever_the_blocks(monkeypatch):
    operands = [x[..., :800].reshape(*x.shape[:-1], 20, 40) for x in codes(FP16, 900)]
    rule = Adam(0.1, decay=1e-4)
    whole = rule.update(*operands, seed=3)
    monkeypatch.setattr(quaver.golden.update.adam, "_BLOCK", 7)
    assert all(map(np.array_equal, whole, rule.update(*operands, seed=3)))
    assert [x.shape for x in whole] == [(20, 40), (2, 20, 40)]


def test_each_line_has_its_own_source():
    masks = Adam.masks
    assert masks == {**SEED_MASKS, "second": 0x03707344}
    assert {n: s.state for n, s in Adam(0.1).sources(7).items()} == {
        n: LFSR(7 ^ m).state for n, m in masks.items()
    }


def test_the_second_moment_needs_stochastic_rounding():
    """1 − β₂ is a thousandth, and nearest moves nothing by less than half an ulp: v stalls."""
    count = 2000
    one, still = FP16.encode(np.ones(count)), FP16.encode(np.zeros(count))
    ends = {}
    for rounding in ("nearest", "stochastic"):
        momenta = np.stack([still, one])
        for step in range(1, 201):
            seed = step if rounding == "stochastic" else None
            rule = Adam(0.0, rounding=rounding, step=step)
            momenta = rule.update(still, momenta, FP16.encode(np.full(count, 1.125)), seed=seed)[1]
        ends[rounding] = FP16.decode(momenta[1]).mean()
    assert ends["nearest"] == 1
    assert ends["stochastic"] == pytest.approx(1 + (1.125**2 - 1) * (1 - 0.999**200), abs=0.002)


def test_where_the_square_is_lost_the_step_is_no_more_than_one_rate():
    g = FP16.encode(np.array([2.0**-21, -(2.0**-21)]))
    w, mv = np.zeros(2, np.uint16), np.zeros((2, 2), np.uint16)
    for step in range(1, 60):
        w, mv = Adam(1.0, step=step, rounding="nearest").update(w * 0, mv, g)
    assert not mv[1].any()
    assert np.abs(FP16.decode(w)).max() <= 1


def test_roots_and_quotients():
    assert exact.square_root(Fraction(9, 16)) == Fraction(3, 4)
    assert exact.square_root(-0.0) == 0
    assert isnan(exact.square_root(Fraction(-1)))
    assert exact.square_root(inf) == inf
    root = exact.square_root(Fraction(1, 1 << 301))
    assert 0 < abs(root**2 * (1 << 301) - 1) < Fraction(1, 1 << 190)
    assert exact.divide(Fraction(1), Fraction(3)) == Fraction(1, 3)
    assert exact.divide(Fraction(-1), 0.0) == -inf
    assert str(exact.divide(-0.0, Fraction(3))) == "-0.0"
    assert str(exact.divide(Fraction(-2), inf)) == "-0.0"
    assert all(
        isnan(exact.divide(x, y)) for x, y in ((0.0, -0.0), (inf, inf), (nan, Fraction(1)), (inf, nan))
    )


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"rate": np.nan}, "rate is nan, but it must be finite in e6m9"),
        ({"rate": 0.1, "momentum": 1.0}, "momentum is 1.0, but it must be in 0 … 1, 1 excluded"),
        ({"rate": 0.1, "second_momentum": -1}, "second_momentum is -1, but"),
        ({"rate": 0.1, "epsilon": 1e-14}, "epsilon is 1e-14, but it must be positive in e6m9"),
        ({"rate": 0.1, "step": 0}, "step is 0, but steps are counted from 1"),
        ({"rate": 0.1, "random_bits": 0}, "random_bits is 0"),
    ],
)
def test_bad_factors(factors, message):
    with pytest.raises(ValueError, match=message):
        Adam(**factors)


def test_bad_shapes():
    x = np.zeros(3, np.uint16)
    with pytest.raises(ValueError, match=r"momenta have shape \(3,\), but for weights of \(3,\) it must be"):
        Adam(0.1).update(x, x, x, seed=1)
    with pytest.raises(ValueError, match="seed is None, but stochastic rounding needs one"):
        Adam(0.1).update(x, np.zeros((2, 3), np.uint16), x)
