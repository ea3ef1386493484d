"""The device's end of the serial link: words both ways over a line that loses and spoils bytes."""

from __future__ import annotations

from typing import Protocol

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, Mux, ResetSignal, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from rtl.frame_receiver import FrameReceiver
from rtl.frame_transmitter import FrameTransmitter
from rtl.frames import MAX_WORDS

#: Words that a buffer can have: positions are modulo 2**16, of which it takes less than a quarter.
BUFFERS = tuple(1 << bits for bits in range(8, 15))


class Link(wiring.Component):
    """Frames (`rtl.frames`) on one side, streams of words on the other.

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
        Words of frames that were right, each once and in order; one a cycle.
    responses : in, stream of 32 bits
        Words for the host; one a cycle while there is room.
    reset : out
        The host begins a new session: drop everything. Set for one cycle.

    A word leaves at `commands` 3 cycles after the closing flag of its frame came, or later.

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

        session, heard, owed = Signal(16), receiver.header, Signal()
        # Positions of words from the host: consumed ≤ expected.
        expected, consumed, told = Signal(16), Signal(16), Signal(16)
        # Positions of words to the host: acknowledged ≤ sent ≤ written; `reading` is the transmitter's.
        acknowledged, sent, written, reading = Signal(16), Signal(16), Signal(16), Signal(16)

        def distance(after: Signal, before: Signal) -> Signal:
            """after − before, modulo 2**16."""
            return (after - before)[:16]

        # From the frame to the buffer. What is beyond `expected` is not there before it is moved.
        write, overflow = in_buffer.write_port(), Signal()
        room = self.buffer - distance(expected, consumed)
        fits = receiver.index < room
        m.d.comb += [
            write.addr.eq((expected + receiver.index)[: write.addr.shape().width]),
            write.data.eq(receiver.word),
            write.en.eq(receiver.write & fits),
        ]
        with m.If(receiver.write):
            m.d.sync += overflow.eq(~fits | (overflow & (receiver.index != 0)))

        # From the buffer to the commands.
        read = in_buffer.read_port()
        following = Signal(16)
        m.d.comb += [
            following.eq(consumed + (self.commands.valid & self.commands.ready)),
            read.addr.eq(following[: read.addr.shape().width]),
            self.commands.payload.eq(read.data),
        ]
        m.d.sync += [consumed.eq(following), self.commands.valid.eq(following != expected)]

        # From the responses to the buffer.
        store = out_buffer.write_port()
        m.d.comb += [
            self.responses.ready.eq((distance(written, acknowledged) != self.buffer) & ~self.reset),
            store.addr.eq(written[: store.addr.shape().width]),
            store.data.eq(self.responses.payload),
            store.en.eq(self.responses.valid & self.responses.ready),
        ]
        m.d.sync += written.eq(written + store.en)

        # From the buffer to the frame. A frame goes out when there are words to send, when the host has
        # asked, and when there is room again for a frame, or for as much as ever.
        fetch = out_buffer.read_port()
        header, limit, moved = transmitter.header, Signal(16), Signal(16)
        unsent = distance(written, sent)
        place = Signal(16)
        m.d.comb += [
            limit.eq(consumed + self.buffer),
            moved.eq(limit - told),
            header.length.eq(Mux(unsent < MAX_WORDS, unsent, MAX_WORDS)),
            header.poll.eq(owed),
            header.session.eq(session),
            header.sequence.eq(sent),
            header.acknowledge.eq(expected),
            header.limit.eq(limit),
            transmitter.start.eq(
                owed | (unsent != 0) | (moved >= MAX_WORDS) | ((moved != 0) & (consumed == expected))
            ),
            transmitter.word.eq(fetch.data),
            place.eq(reading + transmitter.next),
            fetch.addr.eq(place[: fetch.addr.shape().width]),
        ]
        m.d.sync += reading.eq(place)
        with m.If(transmitter.start & transmitter.idle):
            m.d.sync += [reading.eq(sent), sent.eq(sent + header.length), told.eq(limit), owed.eq(0)]

        # What a frame says.
        m.d.sync += self.reset.eq(0)
        with m.If(receiver.good):
            with m.If(heard.reset & (heard.session != session)):
                m.d.sync += [
                    self.reset.eq(1),
                    session.eq(heard.session),
                    self.commands.valid.eq(0),
                    *(p.eq(0) for p in (expected, consumed, acknowledged, sent, written, told)),
                ]
            with m.Elif(heard.session == session):
                with m.If((heard.sequence == expected) & ~overflow):
                    m.d.sync += expected.eq(expected + heard.length)
                acknowledges = distance(heard.acknowledge, acknowledged)
                # An acknowledgement that was overtaken by later ones says nothing.
                with m.If(acknowledges <= distance(written, acknowledged)):
                    m.d.sync += acknowledged.eq(heard.acknowledge)
                    with m.If(heard.poll | (acknowledges > distance(sent, acknowledged))):
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
        m.d.comb += [
            ClockSignal("unit").eq(ClockSignal()),
            ResetSignal("unit").eq(ResetSignal() | self.link.reset),
        ]
        m.submodules.link = link = self.link
        m.submodules.unit = DomainRenamer("unit")(self.unit)
        connect(m, flipped(self.received), link.received)
        connect(m, link.sent, flipped(self.sent))
        connect(m, link.commands, self.unit.commands)
        connect(m, self.unit.responses, link.responses)
        return m
