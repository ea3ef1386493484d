"""Accelerators whose accumulators are reduced, widened and FP32: 1-6-4 … 1-6-12 and 1-8-23 equal golden."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from test_chunked_float import KINDS, operands
from test_mutations import mutated

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.engine import Codes
from quaver.golden.formats import FP8, FP16, FP32, FloatFormat
from quaver.host.driver import Driver
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.sim.device import SimulatedDevice

ACCUMULATORS = [*(FloatFormat(6, m) for m in range(4, 13)), FP32]
FAST = (FloatFormat(6, 4), FloatFormat(6, 12), FP32)


def some(formats: tuple[FloatFormat, ...]) -> pytest.MarkDecorator:
    """All accumulators, those not in `formats` slow."""
    marked = [pytest.param(acc, marks=[] if acc in formats else pytest.mark.slow) for acc in ACCUMULATORS]
    return pytest.mark.parametrize("accumulator", marked, ids=str)


@cache
def simulated(arithmetic: ChunkedFloat, stages: int = 2) -> Driver:
    device = SimulatedDevice(Accelerator(arithmetic, rows=2, columns=2, stages=stages, depth=64))
    return Driver(device, arithmetic)


def assert_golden(driver: Driver, a: Codes, b: Codes) -> Codes:
    got, expected = driver.gemm(a, b), driver.arithmetic.gemm(a, b)
    assert got.dtype == expected.dtype == driver.arithmetic.result.code_dtype
    np.testing.assert_array_equal(got, expected)
    return got


def sums_at_the_edge(accumulator: FloatFormat) -> tuple[Codes, Codes]:
    """Eight ones added to 2**p, which loses them all to ties, and to 2**(p−1), which keeps them."""
    first = np.ldexp(1.0, [[accumulator.precision], [accumulator.precision - 1]])
    a = np.concatenate([np.ldexp(first, -12), np.full((2, 8), 2.0**-12)], axis=1)
    return FP8.encode(a), FP8.encode(np.full((9, 1), 2.0**12))


@some(FAST)
def test_the_accelerator_is_golden(accumulator: FloatFormat) -> None:
    driver = simulated(ChunkedFloat(FP8, accumulator))
    for kind in KINDS:  # of any codes, specials among them; products at telling distances; overflow …
        for m, k, n in ((3, 50, 5), (5, 200, 7)):  # … in tiles that are not full, and in slices of K
            assert_golden(driver, *operands(kind, FP8, accumulator, m, k, n))
    c = assert_golden(driver, *sums_at_the_edge(accumulator))
    p = accumulator.precision
    assert accumulator.decode(c).tolist() == [[2.0**p], [2.0 ** (p - 1) + 8]]


@some(FAST)
def test_words_that_wait_change_nothing(accumulator: FloatFormat) -> None:
    driver = simulated(ChunkedFloat(FP8, accumulator))
    device = driver.transport
    assert isinstance(device, SimulatedDevice)
    for responses in (0.3, 0.95):  # the array, too, has to wait then: a result is half a word, or a whole one
        device.stall(1, 0.3, responses)
        assert_golden(driver, *operands("any", FP8, accumulator, 7, 9, 11))
    device.stall(0, 0, 0)


@some(FAST)
def test_long_sums_stall_alike(accumulator: FloatFormat) -> None:
    driver, k = simulated(ChunkedFloat(FP8, accumulator)), 3000
    random = np.random.default_rng(1)
    a, b = FP8.encode(random.normal(0.3, 1, (3, k))), FP8.encode(random.normal(0.3, 1, (k, 3)))
    a[0], b[:, 0] = FP8.encode(1.0), FP8.encode(1.0)
    c = accumulator.decode(assert_golden(driver, a, b))
    # 1-6-4 stalls in each chunk, and after 32 chunks for good
    assert (c[0, 0] == k) == (accumulator.mantissa_bits > 7)


@pytest.mark.slow
@some(())
def test_without_chunks_and_with_fp16_operands(accumulator: FloatFormat) -> None:
    for operand, chunk in ((FP16, 64), (FP8, 1 << 14)):
        driver = simulated(ChunkedFloat(operand, accumulator, chunk), stages=4)
        for kind in KINDS:
            assert_golden(driver, *operands(kind, operand, accumulator, 3, 150, 5))
    ones = FP8.encode(np.ones((1, 10_000)))
    c = assert_golden(driver, ones, ones.T)
    assert accumulator.decode(c) == min(10_000, 2.0**accumulator.precision)


def caught(edit: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether an accelerator with that edit gives another GEMM than golden, or words too few."""
    arithmetic = ChunkedFloat(FP8, FloatFormat(6, 12))
    with mutated(*edit):
        from quaver.rtl.accelerator.accelerator import Accelerator as Mutant
        from quaver.rtl.emit.verilog import to_verilog_around

        monkeypatch.setattr("quaver.sim.device.to_verilog_around", to_verilog_around)
        device = SimulatedDevice(Mutant(arithmetic, rows=1, columns=2, stages=1, depth=64))
    device.stall(1, 0, 0.98)  # results wait for each other
    a, b = operands("ties", FP8, arithmetic.accumulator, 3, 50, 5)
    try:
        c = Driver(device, arithmetic).gemm(a, b)
    except TimeoutError:
        return True
    return bool(np.any(c != arithmetic.gemm(a, b)))


@pytest.mark.parametrize(
    "edit",
    [
        ("array/result_buffer", "shape=self.width", "shape=min(self.width, 16)"),
        ("array/result_buffer", "(~self.words.valid | last)", "(~self.words.valid | self.words.ready)"),
        ("array/result_buffer", "m.Elif(last)", "m.Elif(0)"),
        ("rounding", "(dropped[:-1].any() | kept[0])", "(dropped[:-1].any() | ~kept[0])"),
    ],
    ids=["results of 16 bits", "a row cut short", "a row given again", "ties go to odd"],
)
@pytest.mark.slow
def test_a_mutant_is_caught(edit: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert caught(edit, monkeypatch)


@pytest.mark.slow
def test_the_unmutated_accelerator_is_not_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not caught(("array/result_buffer", "as block RAM is slow", "as block RAM is slow"), monkeypatch)
