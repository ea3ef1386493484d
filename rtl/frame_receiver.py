"""Frames from a stream of bytes: header and words as they come, and whether all of it was right."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.frames import CRC, ESCAPE, FLAG, FLIP, HEADER_BYTES, MAX_WORDS, Header

#: Whole words after the header: the CRC looks like one; more are not told apart.
_TOO_MANY = MAX_WORDS + 2


class FrameReceiver(wiring.Component):
    """Takes frames (`rtl.frames`) apart. Nothing is known to be right until `good`.

    A flag ends whatever was before it, so that a fault spoils its own frame, and the one beside it if it hits
    a flag. There is no state in which the next whole frame between two flags is not found.

    Ports
    -----
    bytes : in, stream of 8 bits, always ready
        A byte may come every cycle.
    header : out, `Header`
        Of the frame under way, from the first word to `good`.
    word, index, write : out
        When `write` is set, `word` is number `index` of the frame under way. One cycle after its last byte.
    good : out
        Set for a cycle when a frame has ended that was whole. One cycle after the flag.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "bytes": In(stream.Signature(8, always_ready=True)),
                "header": Out(Header),
                "word": Out(32),
                "index": Out(range(_TOO_MANY + 1)),
                "write": Out(1),
                "good": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = CRC.create()
        byte, come = self.bytes.payload, self.bytes.valid
        escaped, phase = Signal(), Signal(2)
        left, words = Signal(range(HEADER_BYTES + 1), init=HEADER_BYTES), Signal.like(self.index)
        header = self.header.as_value()
        flag, escape = byte == FLAG, (byte == ESCAPE) & ~escaped
        m.d.comb += [
            crc.start.eq(come & flag),
            crc.valid.eq(come & ~flag & ~escape),
            crc.data.eq(byte ^ Mux(escaped, FLIP, 0)),
        ]
        m.d.sync += [self.write.eq(0), self.good.eq(0)]
        with m.If(come & flag):
            whole = (words == self.header.length + 1) & (words != _TOO_MANY) & (phase == 0)
            m.d.sync += [
                self.good.eq(whole & (left == 0) & ~escaped & crc.match_detected),
                left.eq(HEADER_BYTES),
                words.eq(0),
                phase.eq(0),
                escaped.eq(0),
            ]
        with m.Elif(come & escape):
            m.d.sync += escaped.eq(1)
        with m.Elif(come):
            m.d.sync += escaped.eq(0)
            with m.If(left != 0):
                m.d.sync += [left.eq(left - 1), header.eq(Cat(header[8:], crc.data))]
            with m.Else():
                m.d.sync += [self.word.eq(Cat(self.word[8:], crc.data)), phase.eq(phase + 1)]
                with m.If((phase == 3) & (words != _TOO_MANY)):
                    m.d.sync += [
                        words.eq(words + 1),
                        self.index.eq(words),
                        self.write.eq(words < self.header.length),  # so the CRC is none
                    ]
        return m
