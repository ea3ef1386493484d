"""The serial link: its frames as PROTOCOL.md has them, and words over a line that spoils frames."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
from links import BOARD, Echo, Traffic, board_verilog, echo_line, echo_verilog, exchange, transport
from test_mutations import mutated

import quaver.fpga
from quaver.host import link_transport
from quaver.host.driver import Driver
from quaver.host.link_transport import LinkTransport
from quaver.rtl.link.frames import CRC, FLAG, MAX_WORDS, Frame, Frames
from quaver.rtl.link.reliable_link import ReliableLink
from quaver.sim.line import CLOCK, SimulatedLine

PROTOCOL = (Path(quaver.fpga.__file__).parent / "PROTOCOL.md").read_text()
EXAMPLE = Frame(session=0x1234, sequence=2, acknowledge=4, payload=bytes.fromhex("7D00017E"))


def between(frame: Frame) -> bytes:
    return frame.to_bytes()[1:-1]


def test_example_of_the_protocol() -> None:
    (example,) = re.findall(r"```\n([0-9A-F ]+)\n```", PROTOCOL)
    assert EXAMPLE.to_bytes() == bytes.fromhex(example)
    assert Frames().take(bytes.fromhex(example)) == [EXAMPLE]


def test_crc_is_the_one_of_the_hardware() -> None:
    body = between(Frame(1, 2, 3, 4, bytes(range(32))))
    assert not {0x7D, 0x7E} & set(body)
    assert CRC.compute(body[:-4]).to_bytes(4, "little") == body[-4:]
    assert CRC.compute(b"123456789") == 0xCBF43926


def test_any_frame_survives_in_any_pieces() -> None:
    random = np.random.default_rng(1)
    sent, frames = [], Frames()
    for _ in range(200):
        payload = random.choice([0x7D, 0x7E, 0x5D, 0x5E, 0x00], 4 * random.integers(0, 9)).astype(np.uint8)
        numbers = random.integers(0, 1 << 16, 4).tolist()
        sent.append(
            Frame(*numbers, payload.tobytes(), bool(random.random() < 0.5), bool(random.random() < 0.5))
        )
    stream, received = b"".join(frame.to_bytes() for frame in sent), []
    while stream:
        size = int(random.integers(1, 20))
        received += frames.take(stream[:size])
        stream = stream[size:]
    assert received == sent
    assert not frames.dropped


def test_every_single_spoilt_byte_is_seen() -> None:
    good = between(EXAMPLE)
    for i in range(len(good)):
        for flip in range(1, 256):
            spoilt = good[:i] + bytes([good[i] ^ flip]) + good[i + 1 :]
            assert all(Frame.from_bytes(piece) is None for piece in spoilt.split(bytes([FLAG])) if piece)
        assert Frame.from_bytes(good[:i]) is None
        assert Frame.from_bytes(good[:i] + good[i + 1 :]) is None
        assert Frame.from_bytes(good[: i + 1] + good[i:]) is None


@pytest.mark.parametrize("size", [3, 4 * MAX_WORDS + 4])
def test_refuses_a_payload(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes of payload, but a frame has up to 256 words of 4"):
        Frame(1, 0, 0, payload=bytes(size))


@pytest.mark.parametrize("buffer", [0, 128, 500, 1 << 15])
def test_refuses_a_buffer(buffer: int) -> None:
    with pytest.raises(
        ValueError, match=f"buffer is {buffer}, but the link has buffers of 256 to 16384 words"
    ):
        ReliableLink(buffer)


def check(traffic: Traffic) -> None:
    """Nothing wrong, nothing missing, and no session ended but those whose device was reset."""
    assert traffic.words
    assert traffic.wrong == 0
    assert traffic.told <= traffic.resets
    assert traffic.sessions == 1 + traffic.told + traffic.deaths


def test_words_over_a_good_line_are_sent_once() -> None:
    line = echo_line()
    line.spoil(1, 0)
    host = transport(line)
    host.reset()
    words = np.arange(5000, dtype=np.uint32)
    host.send(words)
    assert np.array_equal(host.receive(5000), 2 * words)
    assert host.repeated == 0


@pytest.mark.parametrize(
    ("frames", "rate", "ends"), [(8000, 0.01, 0.002), (2000, 0.1, 0.01), (1000, 0.2, 0.05)]
)
def test_nothing_lost_and_nothing_wrong(frames: int, rate: float, ends: float) -> None:
    """At most one in five: of two, both ways, the host's patience ends by chance."""
    line = echo_line()
    line.spoil(frames, rate)
    traffic = exchange(line, frames, frames, ends=ends)
    check(traffic)
    gone, faults = line.counts()
    assert gone >= frames
    assert 0.7 < sum(faults.values()) / gone / rate < 1.3
    assert all(faults.values()), "a kind of fault that never was"
    assert traffic.repeated
    assert traffic.told


@pytest.mark.slow
def test_a_million_frames() -> None:
    line = echo_line()
    line.spoil(4, 0.01)
    traffic = exchange(line, 1_000_000, 4)
    check(traffic)
    gone, faults = line.counts()
    print(f"\n{gone:,} frames, {sum(faults.values()):,} spoilt: {faults}\n{traffic}")
    assert sum(faults.values()) > 9_000
    assert all(count > 500 for count in faults.values())
    assert traffic.resets > 100
    assert traffic.deaths > 100


def test_same_seed_same_faults() -> None:
    def once() -> tuple[Traffic, int, dict[str, int]]:
        line = echo_line()
        line.spoil(5, 0.2)
        return exchange(line, 500, 5), *line.counts()

    assert once() == once()


def test_device_answers_the_frame_after_any_garbage() -> None:
    """The bound of the protocol: a whole frame after a flag is taken, whatever came before."""
    line, random = echo_line(), Random(6)
    longest = 0.0
    for session in range(1, 400):
        garbage = bytearray(
            random.randbytes(random.randrange(3000) if session % 10 == 0 else random.randrange(40))
        )
        if session % 3 == 0:
            garbage = bytearray(Frame(session, 0, 0, payload=bytes(4 * random.randrange(256))).to_bytes())
            del garbage[random.randrange(len(garbage)) :]
        if session % 5 == 0:
            garbage += b"\x7d"
        line.write(bytes(garbage))
        line.write(Frame(session, 0, 0, reset=True).to_bytes())
        begun, frames = line.now, Frames()
        answers: list[Frame] = []
        while not answers or answers[-1].session != session:
            received = line.read(6000 / CLOCK)
            assert received, f"no answer after {garbage.hex()}"
            answers += frames.take(received)
        longest = max(longest, (line.now - begun) * CLOCK - len(garbage))
        assert answers[-1] == Frame(session, 0, 0, 512, poll=True)
    assert longest < 200  # cycles, with a byte each cycle and 64 of latency


def test_silent_device_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silence:
        now = 0.0

        def __str__(self) -> str:
            return "/dev/ttyX"

        def write(self, data: bytes) -> None:
            self.sent = data

        def read(self, timeout: float) -> bytes:
            self.now += timeout
            return self.says

        says = b""

    line = Silence()
    with pytest.raises(TimeoutError, match=r"no session on /dev/ttyX in 3 s; nothing came; is the device"):
        LinkTransport(line).reset()
    line.says = b"\xff\x00"
    with pytest.raises(TimeoutError, match=r"no session on /dev/ttyX in 3 s; \d+ bytes came, but no frame"):
        LinkTransport(line).reset()
    host = LinkTransport(line)
    host.send(np.arange(3, dtype=np.uint32))
    with pytest.raises(TimeoutError, match=r"/dev/ttyX has not answered for 3.\d s; 0 words of 2 had come"):
        host.receive(2)
    monkeypatch.setattr(line, "write", lambda data: setattr(line, "says", data))
    with pytest.raises(TimeoutError, match="only frames without room came, as the host's are"):
        LinkTransport(line).reset()


@pytest.mark.parametrize(("baud", "count"), [(115_200, 700), (1_000_000, 1024), (3_000_000, 1024)])
def test_a_slow_line_is_waited_for(baud: int, count: int) -> None:
    """Frames that are still on their way are not asked for, nor sent again; those that came are told of."""
    line = SimulatedLine(echo_verilog(), latency=64 / CLOCK, pace=round(10 * CLOCK / baud))
    host = LinkTransport(line, baud=baud)
    host.reset()
    begun, sent = line.now, np.arange(count, dtype=np.uint32)
    host.send(sent)
    assert (host.receive(count) == 2 * sent).all()
    assert (host.polls, host.repeated) == (0, 0)
    assert 4 * count / (line.now - begun) > 0.7 * baud / 10


def test_the_first_error_is_the_one_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has stopped answering does not answer a reset either."""
    line = SimulatedLine(board_verilog(), latency=64 / CLOCK)
    host = LinkTransport(line, retry=5000 / CLOCK, silence=6e5 / CLOCK)
    driver = Driver(host, BOARD)
    codes = np.zeros((4, 4), BOARD.operand.code_dtype)
    driver.gemm(codes, codes)
    monkeypatch.setattr(line, "write", lambda data: None)
    with pytest.raises(TimeoutError, match="has not answered for"):
        driver.gemm(codes, codes)


def test_device_that_does_nothing_is_an_error() -> None:
    host = transport(echo_line())
    host.reset()
    host.send(np.zeros(2, np.uint32))
    with pytest.raises(
        TimeoutError, match=r"answers, but for \d+ s it has taken and given no word; 2 words of 3"
    ):
        host.receive(3)


def test_reset_device_is_an_error_and_the_next_session_works() -> None:
    line = echo_line()
    host = transport(line)
    host.reset()
    host.send(np.zeros(600, np.uint32))
    line.reset_device()
    with pytest.raises(ConnectionResetError, match="is in another session than this one: it was reset"):
        host.receive(600)
    host.reset()
    host.send(np.zeros(2, np.uint32))
    assert host.receive(2).tolist() == [0, 1]


def test_gemms_over_a_line_that_spoils_frames() -> None:
    arithmetic, random = BOARD, np.random.default_rng(7)
    line = SimulatedLine(board_verilog(), latency=64 / CLOCK)
    line.spoil(7, 0.05)
    driver = Driver(transport(line), arithmetic)
    for i in range(20):
        m, k, n = random.integers(1, 30, 3).tolist()
        a, b = (random.integers(0, 1 << 16, shape).astype(np.uint16) for shape in ((m, k), (k, n)))
        if i % 5 == 0:
            line.write(Frame(driver.transport.session, 0, 0, payload=bytes(400)).to_bytes()[:200])  # type: ignore[attr-defined]
            driver = Driver(transport(line, i + 1), arithmetic)  # the old host died in mid-frame
        assert np.array_equal(driver.gemm(a, b), arithmetic.gemm(a, b))
    assert all(line.counts())


#: name → (module, old text, new text); more of them are in test_link_rules.py.
MUTANTS = {
    "CRC not checked": ("link/frame_receiver", " & crc.match_detected", ""),
    "sequence ignored": ("link/reliable_link", "follows & ~overflow", "~overflow"),
}


def mutant(name: str) -> str:
    with mutated(*MUTANTS[name]):
        from quaver.rtl.emit.verilog import to_verilog
        from quaver.rtl.link.reliable_link import Linked

        return to_verilog(Linked(Echo()), "linked")


def caught(verilog: str | None) -> bool:
    line = echo_line(verilog)
    line.spoil(8, 0.1)
    try:
        check(exchange(line, 3000, 8, ends=0.01))
    except (AssertionError, TimeoutError):
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_of_the_link_is_caught(name: str) -> None:
    assert caught(mutant(name))


def test_the_unmutated_link_is_not_caught() -> None:
    assert not caught(None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("if ahead == 0:", "if True:"),
        ("if frame.session != self.session:", "if False:"),
        ("if acknowledged <= self._most_sent:", "if True:"),
        ("if frame.poll and acknowledged < self._sent_at_poll:", "if False:"),
    ],
    ids=["sequence ignored", "session ignored", "old acknowledgements believed", "nothing sent again"],
)
def test_mutant_of_the_host_is_caught(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(link_transport.__file__).read_text()
    assert source.count(old) == 1
    mutant: dict[str, object] = {"__name__": "mutant"}
    exec(compile(source.replace(old, new), "mutant", "exec"), mutant)
    monkeypatch.setattr("links.LinkTransport", mutant["LinkTransport"])
    assert caught(None)
