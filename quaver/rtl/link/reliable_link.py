"""The device's end of the serial link: words both ways over a line that loses and spoils bytes."""

from __future__ import annotations

from typing import Protocol

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from quaver.rtl.link.frame_receiver import FrameReceiver
from quaver.rtl.link.frame_transmitter import FrameTransmitter
from quaver.rtl.link.frames import MAX_WORDS

#: Words that a buffer can have: positions are modulo 2**16, of which it takes less than a quarter.
BUFFERS = tuple(1 << bits for bits in range(8, 15))


class Link(wiring.Component):
    """Frames (`quaver.rtl.link.frames`) on one side, streams of words on the other.

    Words of a frame wait in a buffer until its CRC is known to be right, and words sent until the host
    acknowledges them. There is no timer, and no state that waits for a particular frame: the host asks again.

    Parameters
    ----------
    buffer
        Words of each of the two buffers, a power of two from 256 to 16384.

    Ports
    -----
    received : in, stream of 8 bits, always ready
        Bytes from the host, one a cycle at most.
    sent : out, stream of 8 bits
        Bytes to the host.
    commands : out, stream of 32 bits
        Words of frames that were right, each once and in order; one every third cycle.
    responses : in, stream of 32 bits
        Words for the host; one a cycle while there is room, less one for each word that leaves.
    reset : out
        The host begins a new session: drop everything. Set for one cycle. No response is taken in that cycle
        and the next.

    A word leaves at `commands` 5 cycles after the closing flag of its frame came, or later.

    Raises
    ------
    ValueError
        Another size of the buffers.
    """

    def __init__(self, buffer: int = 512):
        if buffer not in BUFFERS:
            raise ValueError(
                f"buffer is {buffer}, but the link has buffers of {BUFFERS[0]} to {BUFFERS[-1]} words, a "
                f"power of two"
            )
        self.buffer = buffer
        super().__init__(
            {
                "received": In(stream.Signature(8, always_ready=True)),
                "sent": Out(stream.Signature(8)),
                "commands": Out(stream.Signature(32)),
                "responses": In(stream.Signature(32)),
                "reset": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.receiver = receiver = FrameReceiver()
        m.submodules.transmitter = transmitter = FrameTransmitter()
        m.submodules.in_buffer = in_buffer = Memory(shape=32, depth=self.buffer, init=[])
        m.submodules.out_buffer = out_buffer = Memory(shape=32, depth=self.buffer, init=[])
        connect(m, flipped(self.received), receiver.bytes)
        connect(m, transmitter.bytes, flipped(self.sent))

        session = Signal(16)
        heard = receiver.header
        owed = Signal()
        # Positions of words from the host: told ≤ consumed ≤ expected ≤ arriving.
        bits = exact_log2(self.buffer)
        consumed = Signal(16)
        expected = Signal(16)
        arriving = Signal(16)
        told = Signal(bits + 1)
        # Positions of words to the host: acknowledged ≤ sent ≤ written; `reading` is the transmitter's.
        acknowledged = Signal(16)
        sent = Signal(16)
        written = Signal(16)
        reading = Signal(bits)

        def distance(after: Signal, before: Signal) -> Value:
            """after − before, which is a buffer at most."""
            return (after - before)[: bits + 1]

        def precedes(position: Value, other: Value) -> Value:
            """Whether `position` comes before `other`; they are less than half of all positions apart."""
            return (position - other)[15]

        # From the frame to the buffer. What is beyond `expected` is not there before it is moved.
        write = in_buffer.write_port()
        overflow = Signal()
        fits = Signal()
        m.d.comb += [
            fits.eq(~distance(arriving, consumed)[bits]),
            write.addr.eq(arriving[:bits]),
            write.data.eq(receiver.word),
            write.en.eq(receiver.write & fits & ~overflow),
        ]
        with m.If(receiver.heading):
            m.d.sync += [arriving.eq(expected), overflow.eq(0)]
        with m.Elif(write.en):
            m.d.sync += arriving.eq(arriving + 1)
        with m.Elif(receiver.write):
            m.d.sync += overflow.eq(1)

        # From the buffer to the commands: a register, as block RAM is slow, and two cycles to fill it again.
        # No buffer is read while it is written: tools spend 70 LUTs on what comes out then.
        read = in_buffer.read_port()
        some = Signal()
        taken = Signal()
        refill = Signal()
        m.d.comb += [
            read.addr.eq(consumed[:bits]),
            read.en.eq(~write.en),
            taken.eq(self.commands.valid & self.commands.ready),
        ]
        m.d.sync += [some.eq(consumed != expected), refill.eq(taken | write.en)]
        with m.If(taken):
            m.d.sync += [consumed.eq(consumed + 1), self.commands.valid.eq(0)]
        with m.Elif(~self.commands.valid & ~refill):
            m.d.sync += [self.commands.payload.eq(read.data), self.commands.valid.eq(some)]

        # From the responses to the buffer. One more may come before `space` falls.
        store = out_buffer.write_port()
        space = Signal()
        fetching = Signal()
        kept = distance(written, acknowledged)
        m.d.comb += [
            self.responses.ready.eq(space & ~fetching),
            store.addr.eq(written[:bits]),
            store.data.eq(self.responses.payload),
            store.en.eq(self.responses.valid & self.responses.ready),
        ]
        m.d.sync += [
            written.eq(written + store.en),
            space.eq(~(kept[bits] | kept[:bits].all()) & ~self.reset),
        ]

        # From the buffer to the frame. A frame goes out when there are words to send, when the host has
        # asked, and when there is room again for a frame, or for as much as ever.
        fetch = out_buffer.read_port()
        begin = Signal()
        header = transmitter.header
        unsent = Signal(bits + 1)
        moved = Signal(bits + 1)
        news = Signal()
        changed = Signal()  # the positions; what is computed from them is not there yet
        m.d.comb += [
            moved.eq(distance(consumed, told)),
            header.length.eq(Mux(unsent < MAX_WORDS, unsent, MAX_WORDS)),
            header.poll.eq(owed),
            header.session.eq(session),
            header.sequence.eq(sent),
            header.acknowledge.eq(expected),
            header.limit.eq(consumed + self.buffer),
            begin.eq(transmitter.start & transmitter.idle),
            transmitter.start.eq((owed | (unsent != 0) | news) & ~receiver.good & ~changed),
            transmitter.word.eq(fetch.data),
            fetch.addr.eq(reading),
            fetch.en.eq(fetching),
        ]
        m.d.sync += [
            unsent.eq(distance(written, sent)),
            news.eq((moved >= MAX_WORDS) | ((moved != 0) & ~some)),
            changed.eq(receiver.good),
            reading.eq(reading + transmitter.next),
            fetching.eq(begin | transmitter.next),
        ]
        with m.If(begin):
            m.d.sync += [reading.eq(sent), sent.eq(sent + header.length), told.eq(consumed), owed.eq(0)]

        # What a frame says. The header is there long before the frame is known to be good: its positions are
        # compared on the way.
        same = Signal()
        follows = Signal()
        credible = Signal()
        overtakes = Signal()
        m.d.sync += [
            same.eq(heard.session == session),
            follows.eq(heard.sequence == expected),
            # An acknowledgement that was overtaken by later ones says nothing.
            credible.eq(~precedes(heard.acknowledge, acknowledged) & ~precedes(written, heard.acknowledge)),
            overtakes.eq(precedes(sent, heard.acknowledge)),
        ]
        m.d.sync += self.reset.eq(0)
        with m.If(receiver.good):
            with m.If(heard.reset & ~same):
                m.d.sync += [
                    self.reset.eq(1),
                    session.eq(heard.session),
                    space.eq(0),
                    self.commands.valid.eq(0),
                    refill.eq(1),
                    *(p.eq(0) for p in (expected, consumed, told, acknowledged, sent, written)),
                ]
            with m.Elif(same):
                with m.If(follows & ~overflow):
                    m.d.sync += expected.eq(arriving)
                with m.If(credible):
                    m.d.sync += acknowledged.eq(heard.acknowledge)
                    with m.If(heard.poll | overtakes):
                        m.d.sync += sent.eq(heard.acknowledge)
            with m.If(heard.reset | heard.poll):
                m.d.sync += owed.eq(1)
        return m


class Unit(Protocol):
    """What can be behind a link: a component with two streams of 32 bits."""

    commands: stream.Interface
    responses: stream.Interface


class Linked(wiring.Component):
    """A unit, such as an accelerator, behind a link. Each new session resets it.

    Parameters
    ----------
    unit
        Has `commands` and `responses`, streams of 32 bits.
    buffer
        As of `Link`.

    Ports
    -----
    received : in, stream of 8 bits, always ready
    sent : out, stream of 8 bits
    """

    def __init__(self, unit: Unit, buffer: int = 512):
        self.unit, self.link = unit, Link(buffer)
        super().__init__(
            {"received": In(stream.Signature(8, always_ready=True)), "sent": Out(stream.Signature(8))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # A domain of its own, rather than a ResetInserter: that one does not reach into instances.
        m.domains.unit = ClockDomain(local=True)
        reset = Signal(init=1)  # a register's, for it goes far; with the link's own, it is set too
        m.d.comb += [
            ClockSignal("unit").eq(ClockSignal()),
            ResetSignal("unit").eq(reset),
        ]
        m.d.sync += reset.eq(self.link.reset)
        m.submodules.link = link = self.link
        m.submodules.unit = DomainRenamer("unit")(self.unit)
        connect(m, flipped(self.received), link.received)
        connect(m, link.sent, flipped(self.sent))
        connect(m, link.commands, self.unit.commands)
        connect(m, self.unit.responses, link.responses)
        return m
