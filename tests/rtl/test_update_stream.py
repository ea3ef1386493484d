"""Weight updates through the command stream: the same bits as golden, every refusal, stalls, no hang."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from devices import device as device_without_updates
from numpy.typing import NDArray

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.formats import BFLOAT16, E4M3, FP16, FloatFormat
from quaver.golden.nn.recipe import Recipe
from quaver.golden.nn.recipes import fixed16, fixed20
from quaver.golden.update.float_sgd import FloatSGD
from quaver.host.driver import Driver
from quaver.host.transport import DeviceError
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.commands import MAX_LENGTH, Opcode, ResponseHeader, Status, UpdateArguments, command
from quaver.rtl.update.float_sgd import FloatSGDUnit
from quaver.sim.device import SimulatedDevice
from quaver.sim.engine import SimulatedEngine

ARITHMETIC = ChunkedFloat(chunk=4)
RULE = FloatSGD(0.1, 0.9, 1e-3)
SETTINGS = [0, 0, 1]
PAIR = [0, 0x3E003E00, 0x3E003E00]  # weights and momenta of 1, gradients of 0


@cache
def simulated(fmt: FloatFormat = FP16, random_bits: int = 16) -> SimulatedDevice:
    unit = FloatSGDUnit(fmt, random_bits=random_bits, stages=2)
    return SimulatedDevice(Accelerator(ARITHMETIC, rows=1, columns=1, stages=1, depth=16, update=unit))


def device() -> SimulatedDevice:
    """An accelerator with an update unit, just reset and without stalls."""
    simulated().stall(0, 0, 0)
    simulated().reset()
    return simulated()


def codes(fmt: FloatFormat, *shape: int, seed: int = 1) -> list[NDArray[Any]]:
    """Weights, momenta, gradients: any codes."""
    return list(np.random.default_rng(seed).integers(0, 1 << fmt.width, (3, *shape)).astype(fmt.code_dtype))


def same(left: tuple[Any, Any], right: tuple[Any, Any]) -> bool:
    return all(
        mine.dtype == other.dtype and np.array_equal(mine, other)
        for mine, other in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000, 43_687, 100_001])
def test_equals_golden(count: int) -> None:
    driver, data = Driver(device(), ARITHMETIC), codes(FP16, count)
    assert same(driver.update(RULE, *data, seed=9), RULE.update(*data, seed=9))


@pytest.mark.parametrize(("fmt", "random_bits"), [(BFLOAT16, 32), (E4M3, 5)])
def test_equals_golden_in_other_formats(fmt: FloatFormat, random_bits: int) -> None:
    rule, data = FloatSGD(0.5, 0.9, 0.125, fmt, random_bits=random_bits), codes(fmt, 5, 7, 11)
    assert same(
        Driver(simulated(fmt, random_bits), ARITHMETIC).update(rule, *data, seed=9),
        rule.update(*data, seed=9),
    )


def test_an_element_takes_a_cycle_and_a_half() -> None:
    driver, data = Driver(device(), ARITHMETIC), codes(FP16, 40_000)
    before = device_cycles()
    driver.update(RULE, *data, seed=9)
    assert device_cycles() - before < 60_000 + 50


def device_cycles() -> int:
    return simulated().cycles


@pytest.mark.parametrize(("commands", "responses"), [(0.5, 0), (0, 0.9), (0.4, 0.6), (0.95, 0.95)])
def test_stalls_change_nothing(commands: float, responses: float) -> None:
    """Updates and GEMMs in turn: neither disturbs the other."""
    transport = device()
    driver = Driver(transport, ARITHMETIC)
    transport.stall(7, commands, responses)
    a, b = codes(ARITHMETIC.operand, 12, 12)[:2]
    for i in range(3):
        data = codes(FP16, 701, seed=i)
        assert same(driver.update(RULE, *data, seed=9 + i), RULE.update(*data, seed=9 + i))
        assert np.array_equal(driver.gemm(a, b), ARITHMETIC.gemm(a, b))


def update(data: list[int], pairs: int, first: int = 1, zero: int = 0) -> list[int]:
    arguments = UpdateArguments.const({"groups": pairs, "first": first, "zero": zero})
    return [*command(Opcode.UPDATE, [arguments.as_value().value], len(data)), *data]


def ask(transport: SimulatedDevice, words: list[int]) -> tuple[Status, list[int]]:
    """Status and words of the one response."""
    transport.send(np.array(words, np.uint32))
    header = ResponseHeader.unpack(int(transport.receive(1)[0]))
    assert header.opcode == Opcode.UPDATE
    return Status(header.status), transport.receive(header.length).tolist()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (command(Opcode.UPDATE), Status.BAD_LENGTH),
        (update([], 1), Status.BAD_LENGTH),
        (update(SETTINGS, 1), Status.BAD_LENGTH),
        (update(PAIR, 1), Status.BAD_LENGTH),
        (update(SETTINGS + PAIR, 1, first=0), Status.BAD_LENGTH),
        (update(SETTINGS + PAIR, 2), Status.BAD_LENGTH),
        (update(SETTINGS + PAIR + [0], 1), Status.BAD_LENGTH),
        (update(SETTINGS + PAIR, 0xFFFF), Status.BAD_LENGTH),
        (update([0], 43_690), Status.BAD_LENGTH),  # 3 · 43,690 + 3 is 1 modulo 2**17
        (update([0] * (MAX_LENGTH - 1), 1), Status.BAD_LENGTH),
        (update(SETTINGS + PAIR, 1 + (1 << 14)), Status.BAD_LENGTH),
        (update(SETTINGS + PAIR, 1, zero=1), Status.BAD_ARGUMENT),
        (update(SETTINGS + PAIR, 1, zero=1 << 14), Status.BAD_ARGUMENT),
        (update([0, 0, 0, *PAIR], 1), Status.BAD_ARGUMENT),  # an LFSR never leaves zero
        (update([0, 0, 0] + PAIR * 9, 9), Status.BAD_ARGUMENT),
        (update(SETTINGS, 0), Status.OUT_OF_RANGE),
        (update([], 0, first=0), Status.OUT_OF_RANGE),
    ],
)
def test_refusals(words: list[int], expected: Status) -> None:
    transport = device()
    good = update(SETTINGS + PAIR, 1)
    assert ask(transport, good)[0] is Status.OK
    assert ask(transport, words) == (expected, [])
    assert ask(transport, update(PAIR, 1, first=0)) == (Status.NOT_OPEN, [])
    assert ask(transport, good) == (Status.OK, [0x00003E00, 0x00003E00])  # all scalars are 0
    assert ask(transport, update(PAIR, 1, first=0))[0] is Status.OK


def test_no_run_is_open_after_reset() -> None:
    transport = device()
    assert ask(transport, update(PAIR, 1, first=0)) == (Status.NOT_OPEN, [])


def test_noise_never_hangs_it() -> None:
    """Random words with many an UPDATE nearly right among them: an answer to each, and then it works."""
    rng = np.random.default_rng(0)
    transport = device()
    for _ in range(60):
        words = []
        for _ in range(rng.integers(1, 8)):
            data = rng.integers(0, 1 << 32, 3 * rng.integers(0, 4) + (rng.random() < 0.1)).tolist()
            pairs, first = int(rng.integers(0, 5)), int(rng.integers(0, 2))
            words += update(data, pairs, first, zero=int(rng.random() < 0.1))
            words += rng.integers(0, 1 << 32, rng.integers(0, 2)).tolist()
        transport.send(np.array(words + [0] * 6 + command(Opcode.IDENTIFY), np.uint32))
        for _ in range(200):
            header = ResponseHeader.unpack(int(transport.receive(1)[0]))
            transport.receive(header.length)
            if header.opcode == Opcode.IDENTIFY and header.length:
                break
        else:
            pytest.fail("IDENTIFY was not answered")
    data = codes(FP16, 100)
    assert same(Driver(transport, ARITHMETIC).update(RULE, *data, seed=9), RULE.update(*data, seed=9))


def test_without_a_unit_the_command_is_unknown() -> None:
    transport = device_without_updates()
    assert ask(transport, update(SETTINGS + PAIR, 1)) == (Status.UNKNOWN_OPCODE, [])
    driver = Driver(transport, ChunkedFloat())
    with pytest.raises(
        DeviceError, match=r"^the device updates nothing, but the driver was asked for 1 float_sgd "
    ):
        driver.update(RULE, *codes(FP16, 3), seed=9)


def test_refuses_what_the_unit_does_not_compute() -> None:
    driver = Driver(device(), ARITHMETIC)
    with pytest.raises(
        DeviceError, match=r"updates .*random_bits=16, but the driver was asked for .*random_bits=8;"
    ):
        driver.update(FloatSGD(0.1, random_bits=8), *codes(FP16, 3), seed=9)
    with pytest.raises(DeviceError, match=r"asked for .*rounding=nearest"):
        driver.update(FloatSGD(0.1, rounding="nearest"), *codes(FP16, 3))  # type: ignore[arg-type]


def test_refuses_bad_input_before_it_sends_anything() -> None:
    driver, (w, v, g) = Driver(device(), ARITHMETIC), codes(FP16, 3)
    before = device_cycles()
    with pytest.raises(ValueError, match=r"^seed is 0, but stochastic rounding needs one"):
        driver.update(RULE, w, v, g, seed=0)
    with pytest.raises(ValueError, match=r"^momenta have shape \(2,\), but weights have \(3,\)"):
        driver.update(RULE, w, v[:2], g, seed=1)
    with pytest.raises(TypeError, match="gradients"):
        driver.update(RULE, w, v, g.astype(np.float32), seed=1)
    assert device_cycles() == before


def test_the_engine_updates_where_the_gemms_are() -> None:
    engine, data = SimulatedEngine(rows=1, columns=1, stages=1, depth=16), codes(FP16, 3, 5)
    a, b = codes(ARITHMETIC.operand, 4, 4)[:2]
    engine.gemm(ARITHMETIC, a, b)
    before = engine.cycles
    assert same(engine.update(RULE, *data, seed=9), RULE.update(*data, seed=9))
    assert before < engine.cycles
    assert engine.update_driver(RULE) is engine.driver(ARITHMETIC)
    nearest = FloatSGD(0.1, rounding="nearest")  # type: ignore[arg-type]
    assert same(engine.update(nearest, *data), nearest.update(*data))
    assert engine.update_driver(nearest) is not engine.driver(ARITHMETIC)


@pytest.mark.parametrize("recipe", [fixed16, fixed20], ids=lambda r: r.name)
def test_the_engine_updates_in_fixed_point(recipe: Recipe) -> None:
    """Two elements a group, and with 20 bits one: odd counts, one UPDATE and several, streams that stall."""
    engine = SimulatedEngine()
    for rate, momentum, decay, count in ((0.1, 0.9, 1e-3, 1001), (1.5, 1.9, 0.5, 7), (0.1, 0.9, 0, 50_001)):
        rule = recipe.update.rule(rate, momentum, decay)
        rng = np.random.default_rng(count)
        data = [rng.integers(0, 1 << f.width, count).astype(f.code_dtype) for f in rule.formats]
        assert same(engine.update(rule, *data, seed=9), rule.update(*data, seed=9))
        engine.update_driver(rule).transport.stall(3, 0.3, 0.5)
    assert engine.cycles > 50_001 * 3 // 2


def test_the_engine_refuses_other_rules() -> None:
    with pytest.raises(TypeError, match=r"the hardware updates by fixed_sgd and float_sgd only"):
        SimulatedEngine().update(ARITHMETIC, *codes(FP16, 3))  # type: ignore[arg-type]
