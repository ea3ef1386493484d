"""What the tests of the serial link share: a unit that answers every word, and traffic over a spoilt line."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.formats import FP16
from quaver.host.link_transport import LinkTransport
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.link.frames import MAX_WORDS, Frame, Frames
from quaver.rtl.link.reliable_link import Linked
from quaver.rtl.link.serial_unit import SerialUnit
from quaver.rtl.link.uart import UART
from quaver.rtl.update.float_sgd import FloatSGDUnit
from quaver.sim.line import CLOCK, SimulatedLine

#: Messages under way at once.
AHEAD = 4


class Echo(wiring.Component):
    """Answers each word with itself plus the number of words before it; pauses a quarter of the time.

    A word that is lost, doubled or out of its order changes this answer or those of all that follow.
    """

    def __init__(self) -> None:
        super().__init__({"commands": In(stream.Signature(32)), "responses": Out(stream.Signature(32))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = Signal(32)
        time = Signal(14)
        working = ~time[-2:].all()
        m.d.sync += time.eq(time + 1)
        m.d.comb += [
            self.responses.payload.eq(self.commands.payload + count),
            self.responses.valid.eq(self.commands.valid & working),
            self.commands.ready.eq(self.responses.ready & working),
        ]
        with m.If(self.commands.valid & self.commands.ready):
            m.d.sync += count.eq(count + 1)
        return m


@cache
def echo_verilog() -> str:
    """The echo behind the link."""
    return to_verilog(Linked(Echo()), "linked")


def echo_line(verilog: str | None = None) -> SimulatedLine:
    """An echo behind the link; a byte each cycle, read 64 cycles late."""
    return SimulatedLine(verilog or echo_verilog(), latency=64 / CLOCK)


def transport(line: SimulatedLine, seed: int = 0) -> LinkTransport:
    """The host's end, with times for a byte each cycle."""
    return LinkTransport(
        line, retry=5000 / CLOCK, silence=6e5 / CLOCK, patience=2e6 / CLOCK, random=Random(seed)
    )


@dataclass
class Traffic:
    """What went over a line; `told` are the sessions that ended with an error that said so."""

    words: int = 0
    wrong: int = 0
    sessions: int = 0
    resets: int = 0
    deaths: int = 0
    told: int = 0
    polls: int = 0
    repeated: int = 0

    def count(self, host: LinkTransport) -> None:
        """Add up what a host had to do."""
        self.polls += host.polls
        self.repeated += host.repeated


def exchange(line: SimulatedLine, frames: int, seed: int, *, ends: float = 0.002) -> Traffic:
    """Random words through the echo until so many frames went over the line.

    Before `ends` of the messages the device is reset amid its work, or the host dies and leaves half a frame
    on the line. Whatever happens, the words of a session must come, all and right, or an error must say why
    not; anything else is counted wrong.
    """
    random, traffic = np.random.default_rng(seed), Traffic()
    host = transport(line, seed)
    waiting: deque[np.ndarray] = deque()
    answered = 0

    def begin() -> None:
        nonlocal answered
        host.reset()
        waiting.clear()
        answered = 0
        traffic.sessions += 1

    def receive() -> None:
        nonlocal answered
        words = waiting.popleft()
        got = host.receive(len(words))
        expected = words + np.arange(answered, answered + len(words), dtype=np.uint32)
        traffic.wrong += int((got != expected).sum())
        traffic.words += len(words)
        answered += len(words)

    begin()
    while line.counts()[0] < frames:
        size = int(random.integers(1, 600) if random.random() < 0.02 else random.integers(1, 12))
        words = random.integers(0, 1 << 32, size, np.uint32)
        words.view(np.uint8)[random.random(4 * size) < 0.02] = 0x7D + size % 2
        host.send(words)
        waiting.append(words)
        try:
            if random.random() < ends:
                host._transmit()
                line.read(float(random.integers(1, 200)) / CLOCK)
                if random.random() < 0.5:
                    line.reset_device()
                    traffic.resets += 1
                else:
                    half = Frame(host.session, host._sent, host._expected, payload=bytes(4 * min(size, 256)))
                    line.write(half.to_bytes()[: int(random.integers(1, 14))])
                    traffic.deaths += 1
                    traffic.count(host)
                    host = transport(line, int(random.integers(1 << 32)))
                    begin()
            while len(waiting) > AHEAD:
                receive()
        except ConnectionResetError:
            traffic.told += 1
            begin()
    try:
        while waiting:
            receive()
    except ConnectionResetError:
        traffic.told += 1
    traffic.count(host)
    return traffic


#: Cycles of silence after which the device has said all: longer than the echo's pauses.
QUIET = 6000
_MODULO = (1 << 16) - 1


def windows(line: SimulatedLine, buffer: int, *, rounds: int, skipped: int, seed: int = 1) -> None:
    """One session with the echo, frame by frame, in which everything that the device says is known before.

    In each of the rounds, which are some `skipped` words apart: the device is given more than it has room to
    answer, what is told too late or too early, what there is no room for; it is asked to repeat; it must be
    silent when there is nothing to say. AssertionError where it says more, less or something else.
    """
    rng, frames = np.random.default_rng(seed), Frames()
    session = int(rng.integers(1, 1 << 16))
    sent = given = acknowledged = 0

    def say(*said: Frame) -> list[Frame]:
        for frame in said:
            line.write(frame.to_bytes())
        heard: list[Frame] = []
        while data := line.read(QUIET / CLOCK):
            heard += frames.take(data)
            assert len(heard) < 40, "it does not stop talking"
        assert all(frame.session == session for frame in heard), "another session"
        return heard

    def words(begin: int, end: int) -> np.ndarray:
        return np.arange(begin, end, dtype=np.uint32) * np.uint32(0x9E3779B1)

    def frame(count: int = 0, *, at: int | None = None, poll: bool = False) -> Frame:
        positions = sent & _MODULO, (acknowledged if at is None else at) & _MODULO
        return Frame(session, *positions, payload=words(sent, sent + count).tobytes(), poll=poll)

    def answers(heard: list[Frame], begin: int) -> None:
        """The words from `begin` on are said once, all that there are.

        Of a full buffer the last word stays empty, unless words came in successive cycles.
        """
        nonlocal given
        for each in heard:
            assert each.sequence == begin & _MODULO, "another position"
            expected = words(begin, begin + each.length) + np.arange(
                begin, begin + each.length, dtype=np.uint32
            )
            assert each.payload == expected.tobytes(), "another word"
            begin += each.length
        most = acknowledged + buffer
        assert begin in ((sent,) if sent < most else (most - 1, most)), "too few words or too many"
        given = begin

    begin = Frame(session, 0, 0, reset=True)
    ready = [Frame(session, 0, 0, buffer, poll=True)]
    assert say(begin) == ready, "another answer to a new session"
    assert say(begin) == ready, "another answer to the session that is"
    for _ in range(rounds):
        for _ in range(-(-2 * skipped // buffer)):
            count, begun = int(rng.integers(buffer // 4, min(buffer, MAX_WORDS + 1))), given
            line.write(frame(count).to_bytes())
            sent += count
            heard: list[Frame] = []
            while begun + sum(each.length for each in heard) < sent:
                data = line.read(QUIET / CLOCK)
                assert data, "nothing more comes"
                heard += frames.take(data)
            answers(heard, begun)
            acknowledged = given
        answers(say(frame()), given)
        # More than can be answered before it is acknowledged.
        for _ in range(2):
            burst = []
            for _ in range(int(rng.integers(1, 8))):
                burst.append(frame(min(int(rng.choice([1, 2, 30, 256])), given + buffer - sent)))
                sent += burst[-1].length
            answers(say(*burst), given)
        # What says nothing: acknowledgements that were overtaken, or of what was not given; other sessions.
        for at in (acknowledged - 1 - int(rng.integers(1000)), given + 1 + int(rng.integers(1000))):
            assert not say(frame(at=at)), "an answer to an acknowledgement that is none"
        other = Frame(session ^ 1 << int(rng.integers(16)), sent & _MODULO, given & _MODULO, poll=True)
        mine = Frame(session, given & _MODULO, sent & _MODULO, given + buffer & _MODULO, poll=True)
        assert say(other) == [mine], "another answer to another session"
        room = given + buffer - sent
        if room < 256:
            assert not say(frame(room + 1)), "an answer to what there is no room for"
        # Asked, it repeats what is not acknowledged.
        while True:
            before = given
            acknowledged = int(rng.integers(acknowledged, given + 1))
            heard = say(frame(poll=True))
            assert [each.poll for each in heard] == [True] + [False] * (len(heard) - 1), "not asked"
            assert heard[0].acknowledge == sent & _MODULO, "another acknowledgement"
            answers(heard, acknowledged)
            assert before <= (heard[0].limit - buffer - before & _MODULO) + before <= given, "another limit"
            acknowledged, before = given, given
            answers(say(frame()), before)
            if given == sent:
                break
        acknowledged = given


#: What the tests' board computes: FP16 operands, so that every GEMM of recipe fp8 is one of its own.
BOARD = ChunkedFloat(FP16, FP16)


@cache
def board_verilog() -> str:
    """A small accelerator with an update unit behind the link."""
    return to_verilog(
        Linked(Accelerator(BOARD, rows=2, columns=3, stages=2, depth=256, update=FloatSGDUnit())), "linked"
    )


@cache
def compressing_board_verilog() -> str:
    """The same, which compresses layers of up to 65,535 elements in bins of up to 50 too."""
    unit = AdaCompUnit(50, count_bits=16, stages=1)
    accelerator = Accelerator(
        BOARD, rows=2, columns=3, stages=2, depth=256, update=FloatSGDUnit(), compression=unit
    )
    return to_verilog(Linked(accelerator), "linked")


class AtPins(wiring.Component):
    """A board's two pins with a UART before them, so that its bytes are those of a `Linked`."""

    def __init__(self, board: SerialUnit) -> None:
        self.board, self.uart = board, UART(board.uart.divisor)
        super().__init__(
            {"received": In(stream.Signature(8, always_ready=True)), "sent": Out(stream.Signature(8))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.board, m.submodules.uart = board, uart = self.board, self.uart
        m.d.comb += [board.rx.eq(uart.tx), uart.rx.eq(board.tx)]
        m.d.comb += [uart.sent.valid.eq(self.received.valid), uart.sent.payload.eq(self.received.payload)]
        with m.If(uart.received.valid):
            m.d.sync += [self.sent.valid.eq(1), self.sent.payload.eq(uart.received.payload)]
        with m.Elif(self.sent.ready):
            m.d.sync += self.sent.valid.eq(0)
        return m


def pins_line() -> SimulatedLine:
    """A small board on its pins: 12 MHz, 3 Mbaud, 40 cycles a byte."""
    accelerator = Accelerator(
        ChunkedFloat(), rows=1, columns=2, stages=2, depth=64, update=FloatSGDUnit(stages=2)
    )
    board = SerialUnit(accelerator, clock_hz=12e6, baud=3e6)
    return SimulatedLine(to_verilog(AtPins(board), "linked"), pace=10 * board.uart.divisor)
