"""The weight update against its definition in fractions, and its purpose: small steps that do not vanish."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import quaver.golden.update.float_sgd
from quaver.golden.formats import BFLOAT16, DLFLOAT, E4M3, FP16, FP32, HALF, FloatFormat
from quaver.golden.kernels import axpy
from quaver.golden.lfsr import LFSR
from quaver.golden.rounding import Rounding
from quaver.golden.update.float_sgd import SEED_MASKS, FloatSGD


def random_codes(fmt, rng, count):
    """Everything: specials, then normal values, then any bits at all."""
    top = fmt.infinity_code or fmt.nan_code
    specials = np.array([0, 1, fmt.max_code, top, fmt.nan_code, 1 << fmt.mantissa_bits])
    specials = np.concatenate([specials, specials | fmt.sign_code])
    ordinary = fmt.encode(rng.normal(size=count // 2))
    anything = rng.integers(0, 1 << fmt.width, count - len(ordinary))
    return np.concatenate([rng.choice(specials, count // 6), ordinary, anything]).astype(fmt.code_dtype)


SCALARS = [
    {"rate": 0.1, "momentum": 0.9, "decay": 1e-4},
    {"rate": 1.0, "momentum": 1.0, "decay": 0.5},  # products on the grid: ties
    {"rate": -1.5, "momentum": -0.75, "decay": 3.0},
    {"rate": 1e-9, "momentum": 1e-8, "decay": 2e-9},  # products far below: what sticks is a sticky bit
    {"rate": 0.0, "momentum": 0.0, "decay": -0.0},  # signed zeros
]


@pytest.mark.parametrize("scalars", SCALARS, ids=lambda s: str(s["rate"]))
@pytest.mark.parametrize(
    ("rounding", "random_bits"),
    [("nearest", 16), ("truncate", 16), ("stochastic", 16), ("stochastic-b", 4), ("stochastic-c", 4)],
)
def test_update_equals_its_definition(scalars, rounding, random_bits):
    update = FloatSGD(**scalars, rounding=rounding, random_bits=random_bits)
    rng = np.random.default_rng(1)
    codes = [random_codes(FP16, rng, 900) for _ in range(3)]
    seed = 0xC0FFEE if update.stochastic else None
    for fast, defined in zip(
        update.update(*codes, seed=seed), update.definition(*codes, seed=seed), strict=True
    ):
        assert np.array_equal(fast, defined)
        assert fast.dtype == np.uint16


@pytest.mark.parametrize(
    "fmt",
    [HALF, BFLOAT16, E4M3, FloatFormat(2, 13), FloatFormat(8, 2, bias=200), FloatFormat(6, 12), FP32],
    ids=str,
)
@pytest.mark.parametrize("random_bits", [1, 7, 24, 32])
def test_other_formats_and_widths_of_random_bits(fmt, random_bits):
    update = FloatSGD(0.3, 0.9, 0.01, fmt, random_bits=min(random_bits, 51 - fmt.precision))
    rng = np.random.default_rng(2)
    codes = [random_codes(fmt, rng, 200) for _ in range(3)]
    for fast, defined in zip(update.update(*codes, seed=5), update.definition(*codes, seed=5), strict=True):
        assert np.array_equal(fast, defined)


def test_a_product_below_float64s_last_bit_still_counts(monkeypatch, tmp_path):
    # 1 − 2**-60 cut to one bit below the last is 0.1111111111|1: one of two random numbers leaves it below 1.
    # A sum rounded to nearest in float64 first would be 1, and would stay there.
    count = 1000
    w, v, g = (np.full(count, FP16.encode(x), np.uint16) for x in (1.0, 0.0, 2.0**-30))
    update = FloatSGD(2.0**-30, 0.0, 0.0, random_bits=1)
    new_w, _ = update.update(w, v, g, seed=9)
    up = LFSR(9 ^ SEED_MASKS["rate"]).draws(count, 1) == 1
    below = np.nextafter(
        np.float16(1), np.float16(0)
    )  # as far below 1 in half; FP16 has half its precision there
    assert np.array_equal(FP16.decode(new_w), np.where(up, 1.0, 1.0 - 2 * (1.0 - float(below))))
    assert 400 < np.count_nonzero(up) < 600

    source = Path(axpy.__file__).read_text().replace("cache=True, ", "")
    to_odd = "bits + outward if"
    assert source.count(to_odd) == 1
    (tmp_path / "mutated_axpy.py").write_text(source.replace(to_odd, "bits if"))
    spec = importlib.util.spec_from_file_location("mutated_axpy", tmp_path / "mutated_axpy.py")
    mutated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutated)
    monkeypatch.setattr(axpy, "sgd", mutated.sgd)
    assert np.all(FP16.decode(update.update(w, v, g, seed=9)[0]) == 1)  # this test would notice


def test_the_three_lines_in_plain_numbers():
    update = FloatSGD(0.25, 0.5, 0.125, rounding="nearest")
    w, v, g = (FP16.encode(np.array([[x]])) for x in (8.0, 2.0, 3.0))
    new_w, new_v = update.update(w, v, g)
    assert FP16.decode(new_v).tolist() == [[(3 + 0.125 * 8) + 0.5 * 2]]
    assert FP16.decode(new_w).tolist() == [[8 - 0.25 * 5]]


def test_scalars_are_codes():
    rough = FloatSGD(0.1, 0.9, 1e-4)
    exact_ones = FloatSGD(*(float(FP16.round(x)) for x in (0.1, 0.9, 1e-4)))
    codes = [random_codes(FP16, np.random.default_rng(3), 500) for _ in range(3)]
    assert all(map(np.array_equal, rough.update(*codes, seed=1), exact_ones.update(*codes, seed=1)))
    assert rough.scalars == {
        name: FP16.encode(getattr(rough, name)) for name in ("decay", "momentum", "rate")
    }


def test_draws_are_in_memory_order_whatever_the_blocks(monkeypatch):
    update = FloatSGD(0.1, 0.9, 1e-4)
    codes = [random_codes(FP16, np.random.default_rng(4), 1200)[:1200].reshape(30, 40) for _ in range(3)]
    whole = update.update(*codes, seed=3)
    monkeypatch.setattr(quaver.golden.update.float_sgd, "_BLOCK", 7)
    assert all(map(np.array_equal, whole, update.update(*codes, seed=3)))
    # a transposed view counts its own order of elements, as its copy does
    turned = [c.T for c in codes]
    copied = [np.ascontiguousarray(c) for c in turned]
    assert all(map(np.array_equal, update.update(*turned, seed=3), update.update(*copied, seed=3)))
    assert whole[0].shape == (30, 40)


def test_each_line_has_its_own_source():
    update = FloatSGD(0.1)
    starts = {name: source.state for name, source in update.sources(7).items()}
    assert starts == {"decay": 7 ^ 0x243F6A88, "momentum": 7 ^ 0x85A308D3, "rate": 7 ^ 0x13198A2E}
    for mask in SEED_MASKS.values():  # a seed that is a mask would leave zero
        assert all(source.state for source in update.sources(mask).values())


def test_inputs_are_left_alone_and_empty_is_fine():
    codes = [random_codes(FP16, np.random.default_rng(5), 100) for _ in range(3)]
    kept = [c.copy() for c in codes]
    FloatSGD(0.1).update(*codes, seed=1)
    assert all(map(np.array_equal, codes, kept))
    empty = np.zeros((0, 4), np.uint16)
    assert [x.shape for x in FloatSGD(0.1).update(empty, empty, empty, seed=1)] == [(0, 4), (0, 4)]


def test_small_steps_vanish_to_nearest_and_arrive_on_average_stochastically():
    # 200 steps of 2**-14 on a weight of 1, whose ulp is 2**-9: to nearest nothing ever happens.
    count, steps = 2000, 200
    one, gradient = FP16.encode(np.ones(count)), FP16.encode(np.full(count, -(2.0**-4)))
    moved = {}
    for rounding in (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC):
        update = FloatSGD(2.0**-10, 0.0, 0.0, rounding=rounding)
        w = one
        for step in range(steps):
            seed = 1000 + step if rounding is Rounding.STOCHASTIC else None
            w, _ = update.update(w, np.zeros_like(w), gradient, seed=seed)
        moved[rounding] = FP16.decode(w).astype(np.float64) - 1
    assert np.all(moved[Rounding.NEAREST_EVEN] == 0)
    expected = steps * 2.0**-14
    spread = moved[Rounding.STOCHASTIC].std() / count**0.5
    assert abs(moved[Rounding.STOCHASTIC].mean() - expected) < 5 * spread


def test_bad_input():
    for scalars, message in (
        ({"rate": np.nan}, "rate is nan, but it must be finite in e6m9"),
        ({"rate": 0.1, "momentum": np.inf}, "momentum is inf, but it must be finite in e6m9"),
        ({"rate": 0.1, "decay": 1e20}, r"decay is 1e\+20, but it must be finite in e6m9"),
        ({"rate": 0.1, "random_bits": 33}, "random_bits is 33, but a draw takes 1 … 32"),
        (
            {"rate": 0.1, "format": FloatFormat(10, 5)},
            "format is e10m5, but an update takes exponents in −500",
        ),
        ({"rate": 0.1, "format": FloatFormat(5, 24)}, "format is e5m24, 25 significant bits, with 16 random"),
        ({"rate": 0.1, "format": FP32, "random_bits": 28}, "24 significant bits, with 28 random ones, but"),
        ({"rate": 0.1, "rounding": "stochastic-b", "random_bits": 32}, "stochastic-b looks at one more"),
        (
            {"rate": 0.1, "rounding": "stochastic-c", "format": DLFLOAT},
            "rounding is stochastic-c, but e6m9dl takes nearest, truncate or stochastic",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            FloatSGD(**scalars)
    x = np.zeros(3, np.uint16)
    for seed in (None, 0, 1 << 32):
        with pytest.raises(
            ValueError, match=rf"seed is {seed}, but stochastic rounding needs one in 1 … 2\*\*32"
        ):
            FloatSGD(0.1).update(x, x, x, seed=seed)
    with pytest.raises(ValueError, match="seed is 4, but nearest rounding draws nothing; leave it out"):
        FloatSGD(0.1, rounding="nearest").update(x, x, x, seed=4)
    with pytest.raises(ValueError, match=r"momenta have shape \(2,\), but weights have \(3,\)"):
        FloatSGD(0.1).update(x, x[:2], x, seed=4)
    with pytest.raises(TypeError, match="gradients has dtype float64, but codes are unsigned integers"):
        FloatSGD(0.1).update(x, x, np.zeros(3), seed=4)
