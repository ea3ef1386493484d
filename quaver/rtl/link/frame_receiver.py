"""Frames from a stream of bytes: header and words as they come, and whether all of it was right."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from quaver.rtl.link.frames import CRC, ESCAPE, FLAG, FLIP, HEADER_BYTES, Header


class FrameReceiver(wiring.Component):
    """Takes frames (`quaver.rtl.link.frames`) apart. Nothing is known to be right until `good`.

    A flag ends whatever was before it, so that a fault spoils its own frame, and the one beside it if it hits
    a flag. There is no state in which the next whole frame between two flags is not found.

    Ports
    -----
    bytes : in, stream of 8 bits, always ready
        A byte may come every cycle.
    heading : out
        Before the first word of a frame: the header is not whole yet.
    header : out, `Header`
        Of the frame under way, from the first word to `good` and the cycle after.
    word, write : out
        When `write` is set, `word` is the next one of the frame under way. Two cycles after its last byte.
    good : out
        Set for a cycle when a frame has ended that was whole. Two cycles after the flag.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "bytes": In(stream.Signature(8, always_ready=True)),
                "heading": Out(1),
                "header": Out(Header),
                "word": Out(32),
                "write": Out(1),
                "good": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = CRC.create()
        byte, come = self.bytes.payload, self.bytes.valid
        escaped = Signal()
        flag = byte == FLAG
        escape = Signal()
        # A cycle for what the byte means, before all that hangs on it.
        end = Signal()
        content = Signal()
        cut = Signal()
        m.d.comb += escape.eq((byte == ESCAPE) & ~escaped)
        m.d.sync += [
            end.eq(come & flag),
            content.eq(come & ~flag & ~escape),
            crc.data.eq(byte ^ Mux(escaped, FLIP, 0)),
            cut.eq(escaped),
        ]
        with m.If(come):
            m.d.sync += escaped.eq(escape)

        left = Signal(range(HEADER_BYTES + 1), init=HEADER_BYTES)
        phase = Signal(2)
        words = Signal(len(self.header.length) + 1)  # to come; the CRC looks like one, −1 is after it
        header = self.header.as_value()
        m.d.comb += [crc.start.eq(end), crc.valid.eq(content), self.heading.eq(left != 0)]
        m.d.sync += [self.write.eq(0), self.good.eq(0)]
        with m.If(end):
            whole = ~self.heading & words.all() & (phase == 0) & ~cut
            m.d.sync += [self.good.eq(whole & crc.match_detected), left.eq(HEADER_BYTES), phase.eq(0)]
        with m.Elif(content & self.heading):
            shifted = Cat(header[8:], crc.data)
            m.d.sync += [left.eq(left - 1), header.eq(shifted), words.eq(shifted[: len(words) - 1])]
        with m.Elif(content):
            m.d.sync += [self.word.eq(Cat(self.word[8:], crc.data)), phase.eq(phase + 1)]
            with m.If(phase == 3):
                m.d.sync += [words.eq(words - 1), self.write.eq((words != 0) & ~words[-1])]
        return m
