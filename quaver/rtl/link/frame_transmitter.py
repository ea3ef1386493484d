"""A header and words become a frame in a stream of bytes."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from quaver.rtl.link.frames import CRC, ESCAPE, FLAG, FLIP, HEADER_BYTES, MAX_WORDS, Header


class FrameTransmitter(wiring.Component):
    """Puts out frames (`quaver.rtl.link.frames`).

    Ports
    -----
    start, header : in
        When idle, begin a frame with this header.
    idle : out
    word : in, 32 bits
        The next word, always there from 8 cycles after `start` and the third cycle after `next` on.
    next : out
        The word was taken.
    bytes : out, stream of 8 bits
        From the cycle after `start` on; one every cycle but for one cycle before each word and the CRC.
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
        # Header, words and CRC are parts of the frame, which leave from the low end of one register: memory,
        # CRC and the detection of flags are not in one path.
        part = Signal(Header.size)
        left = Signal(range(HEADER_BYTES + 1))
        parts = Signal(range(MAX_WORDS + 2))
        escaped = Signal()
        done = Signal()
        byte = part[:8]
        special = ((byte == FLAG) | (byte == ESCAPE)) & ~escaped
        word = Signal(32)  # out of the memory, which is slow
        m.d.sync += word.eq(self.word)
        m.d.comb += crc.data.eq(byte)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.idle.eq(1), crc.start.eq(1)]
                m.d.sync += [part.eq(self.header), left.eq(HEADER_BYTES), parts.eq(self.header.length + 1)]
                with m.If(self.start):
                    m.next = "OPEN"
            with m.State("OPEN"):
                m.d.comb += [self.bytes.payload.eq(FLAG), self.bytes.valid.eq(1)]
                with m.If(self.bytes.ready):
                    m.next = "BYTES"
            with m.State("BYTES"):
                m.d.comb += [
                    self.bytes.payload.eq(Mux(special, ESCAPE, byte ^ Mux(escaped, FLIP, 0))),
                    self.bytes.valid.eq(1),
                    done.eq(self.bytes.ready & ~special),
                    crc.valid.eq(self.bytes.ready & ~escaped),  # with the escape, if there is one
                ]
                with m.If(self.bytes.ready):
                    m.d.sync += escaped.eq(special)
                with m.If(done):
                    m.d.sync += [part.eq(part >> 8), left.eq(left - 1)]
                    with m.If(left == 1):
                        m.next = "NEXT"
                        with m.If(parts == 0):
                            m.next = "CLOSE"
            with m.State("NEXT"):
                m.d.comb += self.next.eq(parts != 1)
                m.d.sync += [
                    part[:32].eq(Mux(self.next, word, crc.crc)),
                    left.eq(4),
                    parts.eq(parts - 1),
                ]
                m.next = "BYTES"
            with m.State("CLOSE"):
                m.d.comb += [self.bytes.payload.eq(FLAG), self.bytes.valid.eq(1)]
                with m.If(self.bytes.ready):
                    m.next = "IDLE"
        return m
