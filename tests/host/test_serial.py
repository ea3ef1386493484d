"""The real driver on a real serial port: the simulated board behind a pseudo-terminal, held to golden."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from links import BOARD, board_verilog, compressing_board_verilog, pins_line

from quaver.cli import main
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.compression import AdaComp, mean
from quaver.golden.descriptor import Descriptor, descriptor
from quaver.golden.engine import Compresses
from quaver.golden.formats import FP16
from quaver.golden.nn.recipes import RECIPES
from quaver.golden.rounding import Rounding
from quaver.golden.update.float_sgd import FloatSGD
from quaver.host import serial_port
from quaver.host.board_engine import BUILT, BoardEngine, gemms, recipes, way_out
from quaver.host.link_transport import LinkTransport
from quaver.host.serial_port import SerialLine, find_port
from quaver.host.transport import DeviceError
from quaver.rtl.commands import Geometry, Identity
from quaver.sim.line import SimulatedLine
from quaver.sim.terminal import Terminal

FP8_GEMM = ChunkedFloat()
RULE = FloatSGD(0.125, 0.875, 0.0625)
RANDOM = np.random.default_rng(1)


@pytest.fixture(scope="module")
def board() -> Iterator[Terminal]:
    with Terminal(SimulatedLine(board_verilog())) as terminal:
        yield terminal


@pytest.fixture
def transport(board: Terminal) -> Iterator[LinkTransport]:
    line = SerialLine(board.port)
    yield LinkTransport(line)
    line.close()


def operands(arithmetic: ChunkedFloat, m: int, k: int, n: int) -> list[np.ndarray]:
    codes, kind = 1 << arithmetic.operand.width, arithmetic.operand.code_dtype
    return [RANDOM.integers(0, codes, shape).astype(kind) for shape in ((m, k), (k, n))]


def test_gemms_and_updates_equal_golden(transport: LinkTransport) -> None:
    engine = BoardEngine(transport, [FP8_GEMM, BOARD], RULE)
    assert engine.identity.geometry.rows == 2
    for arithmetic in (FP8_GEMM, BOARD):
        for shape in ((1, 1, 1), (5, 70, 9), (3, 300, 7)):
            a, b = operands(arithmetic, *shape)  # all codes, NaN and infinities among them
            assert np.array_equal(engine.gemm(arithmetic, a, b), arithmetic.gemm(a, b))
    codes = [RANDOM.integers(0, 1 << 16, 301).astype(np.uint16) for _ in range(3)]
    for new, old in zip(engine.update(RULE, *codes, seed=5), RULE.update(*codes, seed=5), strict=True):
        assert np.array_equal(new, old)


def test_the_host_updates_for_a_device_that_does_not(
    transport: LinkTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = BoardEngine(transport, [FP8_GEMM], RULE)
    engine.identity = replace(engine.identity, update=None)
    monkeypatch.delattr("quaver.host.driver.Driver.update")
    codes = [RANDOM.integers(0, 1 << 16, 7).astype(np.uint16) for _ in range(3)]
    for new, old in zip(engine.update(RULE, *codes, seed=5), RULE.update(*codes, seed=5), strict=True):
        assert np.array_equal(new, old)


def test_accelerator_on_its_pins() -> None:
    """Every bit of every byte: driver, link, UART, pins, UART, link, accelerator, and back."""
    line = pins_line()
    engine = BoardEngine(LinkTransport(line), [FP8_GEMM], RULE)
    a, b = operands(FP8_GEMM, 3, 70, 5)
    assert np.array_equal(engine.gemm(FP8_GEMM, a, b), FP8_GEMM.gemm(a, b))
    codes = [RANDOM.integers(0, 1 << 16, 33).astype(np.uint16) for _ in range(3)]
    for new, old in zip(engine.update(RULE, *codes, seed=5), RULE.update(*codes, seed=5), strict=True):
        assert np.array_equal(new, old)
    assert line.cycles > 40 * 4 * 100  # a hundred words each way take so long on a wire


def test_training_step_on_the_digits(board: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--engine", board.port, "--batch", "4", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["equal"]
    assert found["mismatches"] == 0
    assert found["codes"] > 30_000
    assert "2×3" in printed.err


def test_a_board_that_compresses() -> None:
    line, rule = SimulatedLine(compressing_board_verilog()), AdaComp(50)
    engine = BoardEngine(LinkTransport(line), [FP8_GEMM], bin_length=50)
    assert isinstance(engine, Compresses)
    packets, expected = [], []
    for learner in range(2):
        residue, gradient = RANDOM.normal(size=(2, 330)).astype(np.float32)
        packet, kept = engine.compress(rule, residue, gradient, layer=3, learner=learner, step=1)
        golden, left = rule.compress(residue, gradient, layer=3, learner=learner, step=1)
        assert packet.pack() == golden.pack()
        assert kept.tobytes() == left.tobytes()
        packets.append(packet)
        expected.append(golden)
    assert engine.mean(packets).tobytes() == mean(expected).tobytes()
    with pytest.raises(
        DeviceError,
        match=r"bins of 51 is asked for, but .* of up to 50; .*\(longest=51, count_bits=16\)'",
    ):
        BoardEngine(LinkTransport(line), [FP8_GEMM], bin_length=51)


@pytest.mark.slow
def test_learners_on_a_board_that_compresses(capsys: pytest.CaptureFixture[str]) -> None:
    """Packets, residues and averages of two learners of the digits network, on the device behind its line."""
    learners = ["--learners", "2", "--compress", "adacomp(conv=40, other=50)"]
    with Terminal(SimulatedLine(compressing_board_verilog())) as board:
        assert main(["compare", "--engine", board.port, "--batch", "2", *learners, "--json"]) == 0
        printed = capsys.readouterr()
        calls = {call["role"]: call["calls"] for call in json.loads(printed.out)["calls"]}
        assert calls["compress"] == 2 * calls["average"] == 2
        assert "compression 1 adacomp longest=50 count_bits=16" in " ".join(printed.err.split())


NOTHING = (
    "the device compresses nothing, but adacomp is asked for; take a board of quaver build --compression"
)


def test_a_board_that_does_not_compress(transport: LinkTransport) -> None:
    assert not isinstance(BoardEngine(transport, [FP8_GEMM]), Compresses)
    with pytest.raises(DeviceError, match=NOTHING):
        BoardEngine(transport, [FP8_GEMM], bin_length=50)


def test_learners_on_a_board_that_does_not_compress(
    board: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    learners = ["--learners", "2", "--compress", "adacomp"]
    assert main(["compare", "--engine", board.port, "--batch", "2", *learners]) == 2
    assert NOTHING in capsys.readouterr().err


HOST = """
import numpy as np
from quaver.host.board_engine import BoardEngine
from quaver.host.link_transport import LinkTransport
from quaver.host.serial_port import SerialLine
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
engine = BoardEngine(LinkTransport(SerialLine("{port}")), [ChunkedFloat()])
print("at work", flush=True)
while True:
    engine.gemm(ChunkedFloat(), np.full((40, 200), 0x3C, np.uint8), np.full((200, 40), 0x3C, np.uint8))
"""


def test_killed_host_and_its_successors(board: Terminal) -> None:
    for i in range(3):
        command = [sys.executable, "-c", HOST.format(port=board.port)]
        host = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert host.stdout
        assert host.stdout.readline() == "at work\n"
        time.sleep(0.05 * (i + 1))
        host.send_signal(signal.SIGKILL)
        host.wait()
        host.stdout.close()
        line = SerialLine(board.port)
        engine = BoardEngine(LinkTransport(line), [FP8_GEMM])
        a, b = operands(FP8_GEMM, 9, 80, 12)
        assert np.array_equal(engine.gemm(FP8_GEMM, a, b), FP8_GEMM.gemm(a, b))
        line.close()


def test_reset_button(board: Terminal, transport: LinkTransport) -> None:
    engine = BoardEngine(transport, [FP8_GEMM])
    a, b = operands(FP8_GEMM, 9, 80, 12)
    board.reset_device()
    time.sleep(0.1)
    with pytest.raises(ConnectionResetError, match=rf"the device on {board.port} .* is in another session"):
        engine.gemm(FP8_GEMM, a, b)
    assert np.array_equal(engine.gemm(FP8_GEMM, a, b), FP8_GEMM.gemm(a, b))


def test_refuses_what_does_not_match(transport: LinkTransport) -> None:
    other = replace(BOARD, chunk=32)
    with pytest.raises(
        DeviceError, match=r"the device computes 1 chunked_float .*chunk=64.*chunk=32.* is asked for"
    ):
        BoardEngine(transport, [BOARD, other])
    nearest = FloatSGD(0.1, rounding=Rounding.NEAREST_EVEN)
    with pytest.raises(
        DeviceError,
        match=r"the device updates 1 float_sgd .*=stochastic .* but 1 float_sgd .*=nearest .*; take",
    ):
        BoardEngine(transport, [BOARD], nearest)
    with pytest.raises(TypeError, match=r"rule is .* but the hardware updates by"):
        BoardEngine(transport, [BOARD]).update(object(), *[np.zeros(1, np.uint16)] * 3)  # type: ignore[arg-type]


def test_way_out_of_a_device_that_does_not_match() -> None:
    update = descriptor(RULE)
    narrow, wide = (
        Identity(Geometry(1, 1, 1, 1), descriptor(BUILT[name]), update) for name in ("fp8", "fp16")
    )
    assert recipes(narrow) == ["fp8-everywhere"]
    assert way_out(narrow, gemms(RECIPES["fp8"])) == (
        "take --recipe fp8-everywhere, or a board of quaver build --arithmetic fp16"
    )
    assert {"fp8", "fp8-everywhere"} < set(recipes(wide))
    assert way_out(wide, gemms(RECIPES["fixed16-q8.8"])).endswith(
        "a board of quaver build --arithmetic fixed16"
    )
    assert recipes(replace(narrow, update=None)) == ["fp8-everywhere"]  # and the host updates
    assert (
        way_out(replace(narrow, update=Descriptor("another", {})), [])
        == "take --engine sim, which is any device"
    )


def test_port_in_use(board: Terminal, transport: LinkTransport) -> None:
    with pytest.raises(OSError, match=rf"{board.port} cannot be opened at 3,000,000 baud .*; ports: "):
        SerialLine(board.port)


def test_port_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--engine", "/dev/no-such-port"]) == 2
    assert "/dev/no-such-port cannot be opened at 3,000,000 baud" in capsys.readouterr().err


def test_finds_the_only_port(monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[SimpleNamespace] = []
    monkeypatch.setattr(serial_port.list_ports, "comports", lambda: there)
    with pytest.raises(
        ValueError, match="there is no serial port on USB; connect the board, or name its port"
    ):
        find_port("serial")
    there.append(SimpleNamespace(device="/dev/ttyS0", description="n/a", vid=None))
    there.append(SimpleNamespace(device="/dev/ttyUSB1", description="ULX3S", vid=0x0403))
    assert find_port("serial") == "/dev/ttyUSB1"
    there.append(SimpleNamespace(device="/dev/ttyUSB0", description="a printer", vid=1))
    with pytest.raises(
        ValueError,
        match=r"2 serial ports on USB; name the board's:\n  /dev/ttyUSB0  a printer\n  /dev/ttyUSB1  ULX3S",
    ):
        find_port("serial")
    assert find_port("/dev/ttyS0") == "/dev/ttyS0"


def test_board_is_not_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--engine", "hardware"]) == 2
    assert "--engine is hardware, but there are golden, sim, serial and ports such" in capsys.readouterr().err


def test_fp16_widens_every_fp8_code() -> None:
    codes = np.arange(256, dtype=np.uint8)
    values = FP8_GEMM.operand.decode(codes)
    assert np.array_equal(FP16.decode(FP16.encode(values)), values, equal_nan=True)
