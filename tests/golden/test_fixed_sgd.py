"""The fixed-point update: equal to its definition, unbiased, alive where nearest stands still."""

import numpy as np
import pytest

from quaver.golden.formats import FixedFormat
from quaver.golden.update.fixed_sgd import FixedSGD

FORMATS = [
    (FixedFormat(4, 12), FixedFormat(4, 12), FixedFormat(2, 14)),
    (FixedFormat(8, 8), FixedFormat(2, 14), FixedFormat(1, 15)),
    (FixedFormat(2, 14), FixedFormat(8, 8), FixedFormat(8, 8)),
    (FixedFormat(4, 16), FixedFormat(4, 16), FixedFormat(2, 18)),
]


@pytest.mark.parametrize("rounding", ["stochastic", "stochastic-b", "stochastic-c", "nearest", "truncate"])
@pytest.mark.parametrize("formats", FORMATS, ids=str)
def test_update_is_the_definition(formats, rounding):
    rng = np.random.default_rng(1)
    codes = [
        np.concatenate(
            [
                fmt.encode(rng.normal(0, 2.0**fmt.integer_bits / 8, 200)),
                [fmt.max_code, fmt.max_code + 1, 0, 1],
            ]
        )
        for fmt in formats
    ]
    codes = [c.astype(f.code_dtype).reshape(2, -1) for c, f in zip(codes, formats, strict=True)]
    for bits in (3, 16, 32):
        rule = FixedSGD(0.05, 0.9, 1e-3, *formats, rounding, bits)
        seed = 11 if rule.stochastic else None
        for got, wanted in zip(
            rule.update(*codes, seed=seed), rule.definition(*codes, seed=seed), strict=True
        ):
            assert got.dtype == wanted.dtype
            assert np.array_equal(got, wanted)


def test_updates_below_a_step():
    """A hundredth of a step, a thousand times: nearest stays, stochastic arrives at ten steps."""
    fmt = FixedFormat(8, 8)
    gradient = np.full(2000, 1, np.uint16)
    moved = {}
    for rounding in ("nearest", "stochastic"):
        rule = FixedSGD(0.01, 0.0, 0.0, fmt, fmt, fmt, rounding)
        w = np.zeros(2000, np.uint16)
        for n in range(1000):
            w, _ = rule.update(
                w, np.zeros_like(w), gradient, seed=None if rounding == "nearest" else n * 7919 + 1
            )
        moved[rounding] = fmt.integers(w).astype(float)
    assert not moved["nearest"].any()
    assert abs(moved["stochastic"].mean() + 10) < 5 * np.sqrt(10 / 2000)


@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_mean_errors_of_both_lines(rounding):
    """Over 2000 seeds, each element's mean error is within sampling error of zero; nearest's is not."""
    w_format, v_format, _ = formats = FixedFormat(8, 8), FixedFormat(4, 12), FixedFormat(2, 14)
    rng = np.random.default_rng(6)
    w, v, g = (f.codes(rng.integers(-500, 500, 64)) for f in formats)
    rule = FixedSGD(0.05, 0.9, 0.25, *formats, rounding)
    values = [f.decode(c).astype(np.float64) for f, c in zip(formats, (w, v, g), strict=True)]
    scalars = (rule.scalars[name] * 2.0**-22 for name in ("decay", "momentum", "rate"))
    exact_v = sum(s * x for s, x in zip(scalars, values, strict=True)) * 2.0**12
    stochastic, count = rounding == "stochastic", 2000
    seeds = rng.integers(1, 1 << 32, count).tolist() if stochastic else [None]
    results = [rule.update(w, v, g, seed=seed) for seed in seeds]
    new_w = np.array([w_format.integers(r[0]) for r in results], np.float64)
    new_v = np.array([v_format.integers(r[1]) for r in results], np.float64)
    exact_w = values[0] * 2.0**8 - new_v / 16  # of the v that was drawn
    for errors in (new_v - exact_v, new_w - exact_w):
        assert (np.abs(errors) < 1).all()
        means = np.abs(errors.mean(axis=0))
        # The variance of a rounding is f·(1 − f), at most a quarter.
        assert (means < 5 * 0.5 / np.sqrt(count) + 2.0**-16).all() == stochastic


def test_bad_parameters():
    with pytest.raises(ValueError, match=r"momentum is 2\.5, but it must be in 0"):
        FixedSGD(0.1, 2.5)
    half = 2.0**-23  # of a scalar's step: the largest number that becomes 0
    for lost, message in (
        ({"rate": 0.1, "decay": 1e-6}, "rate·decay is 1e-07, which .* 2.38e-07 .* take 0 for decay"),
        ({"rate": half}, "rate is 1.19e-07, which becomes 0 among"),
        ({"rate": 0.1, "momentum": 1e-9}, "momentum is 1e-09, which"),
    ):
        with pytest.raises(ValueError, match=message):
            FixedSGD(**lost)
    assert FixedSGD(0.5, 0.9, 2.1 * half).scalars["decay"] == 1
    assert FixedSGD(half * 1.01, 0.0).scalars == {"decay": 0, "momentum": 0, "rate": 1}
    with pytest.raises(ValueError, match="too far apart to be added up in 63 bits"):
        FixedSGD(0.1, weights=FixedFormat(20, 4), updates=FixedFormat(-20, 40))
    rule, one = FixedSGD(0.1), np.zeros(1, np.uint16)
    with pytest.raises(ValueError, match="seed is None, but stochastic rounding needs one"):
        rule.update(one, one, one)
    with pytest.raises(ValueError, match=r"gradients have shape \(2,\), but weights have \(1,\)"):
        rule.update(one, one, np.zeros(2, np.uint16), seed=1)
