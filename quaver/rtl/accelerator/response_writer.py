"""The accelerator's voice: a response for each command, in order."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from quaver.rtl.commands import Opcode, ResponseHeader


class Responder(wiring.Component):
    """Puts out response headers and, after each, the words that it announces.

    Parameters
    ----------
    identity
        The words of the answer to IDENTIFY.

    Ports
    -----
    headers : in, stream of `ResponseHeader`
        What to respond.
    results : in, stream of 32 bits
        Words of GEMM results.
    updates : in, stream of 32 bits
        Words of UPDATE results.
    multiplying : in
        This cycle issues a MAC.
    responses : out, stream of 32 bits
        One word a cycle, from a register.
    """

    def __init__(self, identity: Sequence[int]):
        self.identity = list(identity)
        super().__init__(
            {
                "headers": In(stream.Signature(ResponseHeader)),
                "results": In(stream.Signature(32)),
                "updates": In(stream.Signature(32)),
                "multiplying": In(1),
                "responses": Out(stream.Signature(32)),
            }
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
            with m.State("COUNTERS"):
                word(seen.word_select(left == 1, 32), 1)
            with m.State("IDENTITY"):
                word(words.data, 1)
                with m.If(leaves):
                    m.d.comb += words.addr.eq(position + 1)
                    m.d.sync += position.eq(position + 1)
        return m
