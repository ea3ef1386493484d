"""The accelerator's voice: a response for each command, in order."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from quaver.rtl.accelerator.compression_stream import LastWord
from quaver.rtl.commands import Opcode, ResponseHeader, Status


class ResponseWriter(wiring.Component):
    """Puts out response headers and, after each, the words that it announces.

    Parameters
    ----------
    identity
        The words of the answer to IDENTIFY.
    compresses
        Whether there are COMPRESS and AVERAGE, whose responses come ready-made.

    =========== === ==========================================================================================
    headers     in  stream of `ResponseHeader`: the responses to give, in order
    results     in  stream of 32 bits: words of GEMM results
    updates     in  stream of 32 bits: words of UPDATE results
    parts       in  stream of `LastWord`, if it `compresses`: responses to COMPRESS and AVERAGE; their headers
                    in `headers` only say that they are next
    multiplying in  every processing element is handed a product to add in this cycle
    responses   out stream of 32 bits: one word a cycle, from a register
    =========== === ==========================================================================================
    """

    def __init__(self, identity: Sequence[int], compresses: bool = False):
        self.identity, self.compresses = list(identity), compresses
        super().__init__(
            {
                "headers": In(stream.Signature(ResponseHeader)),
                "results": In(stream.Signature(32)),
                "updates": In(stream.Signature(32)),
                "multiplying": In(1),
                "responses": Out(stream.Signature(32)),
            }
            | ({"parts": In(stream.Signature(LastWord))} if compresses else {})
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.identity = identity = Memory(
            shape=32,
            depth=len(self.identity),
            init=self.identity,
            attrs={"rom_style": "block"},  # logic is what the small chips have too little of
        )
        words = identity.read_port()
        position = Signal(range(len(self.identity) + 1))
        left = Signal(16)
        cycles = Signal(32)
        multiplied = Signal(32)
        seen = Signal(64)
        m.d.sync += [cycles.eq(cycles + 1), multiplied.eq(multiplied + self.multiplying)]
        header = self.headers.payload
        leaves = Signal()
        payload = Signal(32)
        valid = Signal()
        m.d.comb += [leaves.eq(self.responses.ready | ~self.responses.valid), words.addr.eq(position)]
        with m.If(leaves):
            m.d.sync += [self.responses.payload.eq(payload), self.responses.valid.eq(valid)]

        def word(following, come) -> None:
            m.d.comb += [payload.eq(following), valid.eq(come)]
            with m.If(valid & leaves):
                m.d.sync += left.eq(left - 1)
                with m.If(left == 1):
                    m.next = "HEADER"

        with m.FSM():
            with m.State("HEADER"):
                m.d.comb += [
                    payload.eq(header),
                    valid.eq(self.headers.valid),
                    self.headers.ready.eq(leaves),
                ]
                m.d.sync += [left.eq(header.length), position.eq(0), seen.eq(Cat(cycles, multiplied))]
                m.d.comb += words.addr.eq(0)
                if self.compresses:
                    is_next = (header.status == Status.OK) & (
                        (header.opcode == Opcode.COMPRESS) | (header.opcode == Opcode.AVERAGE)
                    )
                    with m.If(is_next & self.headers.valid & leaves):
                        m.d.comb += valid.eq(0)
                        m.next = "PARTS"
                with m.If(self.headers.valid & leaves & (header.length != 0)), m.Switch(header.opcode):
                    with m.Case(Opcode.GEMM):
                        m.next = "RESULTS"
                    with m.Case(Opcode.UPDATE):
                        m.next = "UPDATES"
                    with m.Case(Opcode.COUNTERS):
                        m.next = "COUNTERS"
                    with m.Default():
                        m.next = "IDENTITY"
            with m.State("RESULTS"):
                m.d.comb += self.results.ready.eq(leaves)
                word(self.results.payload, self.results.valid)
            with m.State("UPDATES"):
                m.d.comb += self.updates.ready.eq(leaves)
                word(self.updates.payload, self.updates.valid)
            if self.compresses:
                with m.State("PARTS"):
                    m.d.comb += [
                        payload.eq(self.parts.payload.word),
                        valid.eq(self.parts.valid),
                        self.parts.ready.eq(leaves),
                    ]
                    with m.If(valid & leaves & self.parts.payload.last):
                        m.next = "HEADER"
            with m.State("COUNTERS"):
                word(seen.word_select(left == 1, 32), 1)
            with m.State("IDENTITY"):
                word(words.data, 1)
                with m.If(leaves):
                    m.d.comb += words.addr.eq(position + 1)
                    m.d.sync += position.eq(position + 1)
        return m
