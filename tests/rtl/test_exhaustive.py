"""The adder on every pair, or on millions of them; and the C++ definition held to quaver.golden.exact."""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import pytest

from quaver.golden import exact
from quaver.golden.formats import BFLOAT16, E4M3, FP8, FP16, FP32, FloatFormat
from quaver.golden.rounding import Rounding
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.float.adder import FloatAdder
from quaver.rtl.float.multiplier import FloatMultiplier
from quaver.sim.benches.float_adder import pairs, randoms
from quaver.sim.benches.float_multiplier import same
from quaver.sim.exhaustive import AdderPairs, Pairs

MILLIONS = 4_000_000


@cache
def adder(fmt: FloatFormat = FP16, rounding: Rounding = Rounding.NEAREST_EVEN) -> AdderPairs:
    return AdderPairs(FloatAdder(fmt, rounding=rounding))


def stimulus(
    fmt: FloatFormat, rounding: Rounding, count: int, seed: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half directed at alignments, roundings and specials, half any codes; and random bits."""
    rng = np.random.default_rng(seed)
    a, b = pairs(fmt, rng, each=count // 220)
    more = rng.integers(0, 1 << fmt.width, (2, max(count - len(a), 0)))
    a, b = np.concatenate([[a, b], more], axis=1)
    return a, b, randoms(16, rng, len(a)) if rounding is Rounding.STOCHASTIC else np.zeros_like(a)


@pytest.mark.parametrize("rounding", [Rounding.NEAREST_EVEN, Rounding.STOCHASTIC])
@pytest.mark.parametrize("fmt", [FP16, E4M3], ids=str)
def test_the_definition_in_cpp_is_golden_exact(fmt: FloatFormat, rounding: Rounding) -> None:
    a, b, random = stimulus(fmt, rounding, 4000)
    expected = [
        exact.encode(fmt, exact.add(exact.decode(fmt, x), exact.decode(fmt, y)), rounding, r)
        for x, y, r in zip(a.tolist(), b.tolist(), random.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(adder(fmt, rounding).definition(a, b, random), expected)


@pytest.mark.parametrize("rounding", [Rounding.NEAREST_EVEN, Rounding.STOCHASTIC])
def test_millions_of_sums(rounding: Rounding) -> None:
    a, b, random = stimulus(FP16, rounding, MILLIONS)
    assert adder(FP16, rounding).compare(a, b, random) is None


def test_millions_of_sums_in_the_widest_accumulator() -> None:
    fmt = FloatFormat(6, 12)
    assert adder(fmt).compare(*stimulus(fmt, Rounding.NEAREST_EVEN, MILLIONS)) is None


def test_millions_of_fp32_sums_are_those_of_this_processor() -> None:
    a, b, _ = stimulus(FP32, Rounding.NEAREST_EVEN, MILLIONS)
    with np.errstate(over="ignore", invalid="ignore"):
        total = a.astype(np.uint32).view(np.float32) + b.astype(np.uint32).view(np.float32)
    assert np.isnan(total).sum() > 100
    assert ((abs(total) < 2.0**-126) & (total != 0)).sum() > 1000
    expected = np.where(np.isnan(total), np.uint32(FP32.nan_code), total.view(np.uint32))
    unit = Pairs(to_verilog(FloatAdder(FP32), "float_adder"), "float_adder", "sum", (32, 32, 0, 32))
    np.testing.assert_array_equal(unit.evaluate(a, b), expected)


def test_every_special_with_every_code() -> None:
    specials = [0, 1, 0x1FF, 0x200, FP16.max_code, FP16.infinity_code, FP16.nan_code, FP16.sign_code - 1]
    rows = [code | sign for code in specials for sign in (0, FP16.sign_code)]
    assert adder().compare_all(rows) == (len(rows) << 16, None)


def test_every_sum_of_eight_bits() -> None:
    for fmt in (FP8, E4M3):
        assert adder(fmt).compare_all() == (1 << 16, None)


def test_every_product() -> None:
    unit = FloatMultiplier(FP8, FP8)
    width = unit.unpacked.layout.size
    multiplier = Pairs(to_verilog(unit, "float_multiplier"), "float_multiplier", "product", (8, 8, 0, width))
    a, b = (grid.ravel() for grid in np.meshgrid(np.arange(256), np.arange(256)))
    values = [exact.decode(FP8, code) for code in range(256)]
    decode = cache(unit.unpacked.decode)
    wrong = [
        (x, y, bits)
        for x, y, bits in zip(a.tolist(), b.tolist(), multiplier.evaluate(a, b).tolist(), strict=True)
        if not same(decode(bits), exact.multiply(values[x], values[y]))
    ]
    assert not wrong


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="a holds 65536, but the port has 16 bits"):
        adder().compare([0x10000], [0])
    with pytest.raises(ValueError, match="the adder has 2 stages, but pairs are for a combinational one"):
        AdderPairs(FloatAdder(FP16, stages=2))
    with pytest.raises(ValueError, match=r"sums of e8m7 and e8m7 take \d+ bits, but the definition has 128"):
        AdderPairs(FloatAdder(BFLOAT16))


@pytest.mark.exhaustive
def test_all_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    start = last = time.monotonic()

    def progress(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > 5 or done == 1 << 32:
            last = time.monotonic()
            with capsys.disabled():
                print(f"\r{done:,} of {1 << 32:,} sums equal, {last - start:.0f} s", end="", flush=True)

    assert adder().compare_all(progress=progress) == (1 << 32, None)
