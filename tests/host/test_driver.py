"""The driver: GEMMs of any size on a small simulated accelerator, bit for bit the golden model's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from devices import ARITHMETIC, DEPTH, accelerator, compressing_device, device

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.compression import AdaComp, NonFinite, Packet, mean
from quaver.host import compression
from quaver.host.driver import Driver
from quaver.host.transport import DeviceError
from quaver.rtl.commands import Geometry, Identity


def operands(m: int, k: int, n: int, tame: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Codes of normal numbers, or any codes: infinities and NaN among them."""
    random, operand = np.random.default_rng([m, k, n]), ARITHMETIC.operand
    if tame:
        return operand.encode(random.normal(size=(m, k))), operand.encode(random.normal(size=(k, n)))
    return random.integers(0, 256, (m, k), np.uint8), random.integers(0, 256, (k, n), np.uint8)


@pytest.mark.parametrize("tame", [True, False])
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [
        (1, 1, 1),
        (2, 63, 6),
        (3, 64, 7),
        (5, 65, 13),
        (2, DEPTH, 6),
        (3, DEPTH + 1, 7),  # two slices
        (1, 200, 9),
        (4, 64 * 5, 6),  # slices that end with a chunk
        (40, 2, 50),
        (90, 1, 3),
        (3, 1, 90),
        (17, 20, 31),
    ],
)
def test_equals_golden(m: int, k: int, n: int, tame: bool) -> None:
    a, b = operands(m, k, n, tame)
    c = Driver(device(), ARITHMETIC).gemm(a, b)
    assert c.dtype == np.uint16
    assert np.array_equal(c, ARITHMETIC.gemm(a, b))


def test_stalls_change_nothing() -> None:
    a, b = operands(13, 90, 20, tame=False)
    transport = device()
    driver = Driver(transport, ARITHMETIC)
    for seed, commands, responses in ((1, 0.5, 0.0), (2, 0.0, 0.9), (3, 0.7, 0.7)):
        transport.stall(seed, commands, responses)
        assert np.array_equal(driver.gemm(a, b), ARITHMETIC.gemm(a, b))


@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 2), (3, 0, 2), (3, 2, 0)])
def test_nothing_to_do(m: int, k: int, n: int) -> None:
    a, b = np.zeros((m, k), np.uint8), np.zeros((k, n), np.uint8)
    c = Driver(device(), ARITHMETIC).gemm(a, b)
    assert c.shape == (m, n)
    assert not c.any()


def test_interrupted_gemm_leaves_a_working_device(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = device()
    driver = Driver(transport, ARITHMETIC)
    a, b = operands(9, 100, 8)
    receive, calls = transport.receive, []

    def interrupted(count: int) -> np.ndarray:
        calls.append(count)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return receive(count)

    monkeypatch.setattr(transport, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        driver.gemm(a, b)
    assert np.array_equal(driver.gemm(a, b), ARITHMETIC.gemm(a, b))


def test_refused_command_is_an_error_and_leaves_a_working_device(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = device()
    driver = Driver(transport, ARITHMETIC)
    a, b = operands(3, 20, 8)
    monkeypatch.setattr(driver, "geometry", Geometry(2, 3, 2, 2 * DEPTH))  # what the device is not
    with pytest.raises(
        DeviceError, match=r"the device answered LOAD with OUT_OF_RANGE \(header 0x03050000\)"
    ):
        driver.gemm(*operands(2, 2 * DEPTH, 6))
    monkeypatch.undo()
    driver = Driver(transport, ARITHMETIC)
    assert np.array_equal(driver.gemm(a, b), ARITHMETIC.gemm(a, b))


def test_refuses_a_device_of_another_arithmetic() -> None:
    with pytest.raises(DeviceError, match=r"the device computes 1 chunked_float .*chunk=64.*chunk=32"):
        Driver(device(), ChunkedFloat(chunk=32))


def test_refuses_a_device_from_before_descriptors() -> None:
    text = "ChunkedFloat(operand=FloatFormat(exponent_bits=5, mantissa_bits=2), chunk=64)\ne6m9 stochastic 16"
    words = [1, 13, 13, 5, 816, *np.frombuffer(text.ljust(-(-len(text) // 4) * 4).encode(), "<u4").tolist()]
    with pytest.raises(ValueError, match=r"version 1 .* calls itself ChunkedFloat\(.*build the device anew"):
        Identity.from_words(words)


def test_identity_is_read_back() -> None:
    unit = accelerator()
    for identity in (unit.identity, replace(unit.identity, update=None)):
        assert Identity.from_words(identity.to_words()) == identity


def test_refuses_a_device_of_another_version() -> None:
    words = [9, *accelerator().identity.to_words()[1:]]
    with pytest.raises(
        ValueError, match="the device speaks version 9 of the command stream, but this driver"
    ):
        Identity.from_words(words)


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (
            np.zeros((2, 3), np.uint8),
            np.zeros((4, 2), np.uint8),
            ValueError,
            r"\(2, 3\) and b_codes \(4, 2\)",
        ),
        (np.zeros(3, np.uint8), np.zeros((3, 2), np.uint8), ValueError, r"shape \(3,\)"),
        (np.zeros((2, 3)), np.zeros((3, 2), np.uint8), TypeError, "a_codes has dtype float64"),
        (np.zeros((2, 3), np.uint8), np.full((3, 2), 256, np.uint16), ValueError, "b_codes holds 256"),
    ],
)
def test_refuses_operands(a: np.ndarray, b: np.ndarray, error: type[Exception], message: str) -> None:
    driver = Driver(device(), ARITHMETIC)
    with pytest.raises(error, match=message):
        driver.gemm(a, b)


def test_refuses_a_seed_that_nothing_draws_from() -> None:
    with pytest.raises(ValueError, match=r"seed is 3, but ChunkedFloat.* draws nothing; leave it out"):
        Driver(device(), ARITHMETIC).gemm(*operands(1, 1, 1), seed=3)


def bits(values: np.ndarray) -> list[int]:
    return values.view(np.uint32).tolist()


@pytest.mark.parametrize(("bin_length", "length"), [(1, 7), (3, 20), (50, 255), (63, 63), (64, 200), (70, 1)])
def test_compression_equals_golden(bin_length: int, length: int) -> None:
    """Three steps, in which the residues grow, of three learners; stalls, and their average."""
    driver = Driver(compressing_device(), ChunkedFloat(chunk=4))
    rule, rng = AdaComp(bin_length), np.random.default_rng(bin_length)
    residues = [np.zeros((length, 1), np.float32)] * 3
    for step in range(3):
        compressing_device().stall(step, *((0, 0), (0.5, 0), (0.3, 0.8))[step])
        packets = []
        for learner in range(3):
            gradient = rng.normal(size=(length, 1)).astype(np.float32)
            gradient[rng.random(length) < (0.97, 0.3, 0)[step]] = 0
            where = {"layer": 5, "learner": learner, "step": step}
            packet, kept = rule.compress(residues[learner], gradient, **where)
            ours, residues[learner] = compression.compress(driver, rule, residues[learner], gradient, **where)
            assert ours.pack() == packet.pack()
            assert residues[learner].shape == kept.shape
            assert bits(residues[learner]) == bits(kept)
            packets.append(packet)
        assert bits(compression.average(driver, packets)) == bits(mean(packets))
    compressing_device().stall(0, 0, 0)


def test_compression_of_what_is_not_finite() -> None:
    driver = Driver(compressing_device(), ChunkedFloat(chunk=4))
    residue, gradient = np.ones(20, np.float32), np.full(20, 2, np.float32)
    gradient[7] = np.inf
    with pytest.raises(ValueError, match=r"of layer 3 or residue .* is not finite"):
        compression.compress(driver, AdaComp(5), residue, gradient, layer=3)
    rule = AdaComp(5, NonFinite.PASS)
    packet, kept = compression.compress(driver, rule, residue, gradient)
    assert packet.pack() == rule.compress(residue, gradient)[0].pack()
    assert bits(kept) == bits(residue)
    gradient[7] = 2  # and nothing of it is left
    assert (
        compression.compress(driver, rule, residue, gradient)[0].pack()
        == rule.compress(residue, gradient)[0].pack()
    )
    assert bits(compression.average(driver, [packet] * 2)) == bits(mean([packet] * 2))


def test_what_compression_refuses() -> None:
    values = np.zeros(300, np.float32)
    with pytest.raises(DeviceError, match="the device compresses nothing, but adacomp is asked for; take"):
        compression.compress(Driver(device(), ARITHMETIC), AdaComp(5), values, values)
    driver = Driver(compressing_device(), ChunkedFloat(chunk=4))
    with pytest.raises(DeviceError, match=r"300 elements in bins of 5 .* up to 255 in bins"):
        compression.compress(driver, AdaComp(5), values, values)
    with pytest.raises(DeviceError, match=r"in bins of 71 .* 255 in bins of up to 70"):
        compression.compress(driver, AdaComp(71), values[:9], values[:9])
    with pytest.raises(TypeError, match="the gradient is float64"):
        compression.compress(driver, AdaComp(5), values, values.astype(np.float64))
    with pytest.raises(DeviceError, match="in bins of 500"):
        compression.average(driver, [Packet(1, 500, 1.0, np.array([0x8000], np.uint16))])
    none, kept = compression.compress(driver, AdaComp(5), values[:0], values[:0])
    assert none.pack() == AdaComp(5).compress(values[:0], values[:0])[0].pack()
    assert kept.size == compression.average(driver, [none]).size == 0
