"""A header and words become a frame in a stream of bytes."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.frames import CRC, ESCAPE, FLAG, FLIP, HEADER_BYTES, Header


class FrameTransmitter(wiring.Component):
    """Puts out frames (`rtl.frames`).

    Ports
    -----
    start, header : in
        When idle, begin a frame with this header.
    idle : out
    word : in, 32 bits
        The next word, always there from 8 cycles after `start` and the cycle after `next` on.
    next : out
        The word was taken.
    bytes : out, stream of 8 bits
        One every cycle, from the cycle after `start` on.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "header": In(Header),
                "idle": Out(1),
                "word": In(32),
                "next": Out(1),
                "bytes": Out(stream.Signature(8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = CRC.create()
        header, left = Signal(Header.size), Signal(Header["length"].shape)
        place, escaped = Signal(range(HEADER_BYTES)), Signal()
        byte, done = Signal(8), Signal()
        special = ((byte == FLAG) | (byte == ESCAPE)) & ~escaped

        def content(value: object, last: int) -> object:
            """The next byte between the flags; true when it was the last of `last` + 1 and is gone."""
            m.d.comb += [
                byte.eq(value),
                self.bytes.valid.eq(1),
                self.bytes.payload.eq(Mux(special, ESCAPE, byte ^ Mux(escaped, FLIP, 0))),
                done.eq(self.bytes.ready & ~special),
            ]
            with m.If(self.bytes.ready):
                m.d.sync += escaped.eq(special)
            with m.If(done):
                m.d.sync += place.eq(Mux(place == last, 0, place + 1))
            return done & (place == last)

        m.d.comb += crc.data.eq(byte)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.idle.eq(1), crc.start.eq(1)]
                m.d.sync += [header.eq(self.header), left.eq(self.header.length)]
                with m.If(self.start):
                    m.next = "OPEN"
            with m.State("OPEN"):
                m.d.comb += [self.bytes.payload.eq(FLAG), self.bytes.valid.eq(1)]
                with m.If(self.bytes.ready):
                    m.next = "HEADER"
            with m.State("HEADER"):
                gone = content(header[:8], HEADER_BYTES - 1)
                m.d.comb += crc.valid.eq(done)
                with m.If(done):
                    m.d.sync += header.eq(Cat(header[8:], header[:8]))
                with m.If(gone):
                    m.next = "WORDS"
                    with m.If(left == 0):
                        m.next = "CRC"
            with m.State("WORDS"):
                gone = content(self.word.word_select(place[:2], 8), 3)
                m.d.comb += [crc.valid.eq(done), self.next.eq(gone)]
                with m.If(gone):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.next = "CRC"
            with m.State("CRC"), m.If(content(crc.crc.word_select(place[:2], 8), 3)):
                m.next = "CLOSE"
            with m.State("CLOSE"):
                m.d.comb += [self.bytes.payload.eq(FLAG), self.bytes.valid.eq(1)]
                with m.If(self.bytes.ready):
                    m.next = "IDLE"
        return m
