"""The processing element of toy_integer.py, which uses all that the contract has: operands of two widths, two
k side by side, a bit of b a cycle, several lanes."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from toy_integer import ToyInteger

from quaver.rtl.emit.shared_modules import shared_module
from quaver.rtl.pe.element import ProcessingElement
from quaver.rtl.pe.pass_on import pass_on

GROUP = 2


class Entry(wiring.Component):
    """Codes side by side are the numbers."""

    def __init__(self, layout: data.ArrayLayout) -> None:
        super().__init__({"code": In(layout.size), "begin": In(1), "number": Out(layout)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.number.as_value().eq(self.code)
        return m


class Exit(wiring.Component):
    """A total is its own code."""

    def __init__(self, width: int) -> None:
        super().__init__({"number": In(signed(width)), "code": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.code.eq(self.number)
        return m


class ToyIntegerPE(ProcessingElement):
    """One bit of b times a of each of two k, a cycle; `stages` lanes."""

    def __init__(self, arithmetic: ToyInteger, *, stages: int = 4) -> None:
        self.arithmetic = arithmetic
        bits = arithmetic.b.width
        self.a_layout = data.ArrayLayout(arithmetic.a.width, GROUP)
        self.b_layout = data.ArrayLayout(bits, GROUP)
        super().__init__(
            arithmetic,
            a=self.a_layout,
            b=self.b_layout,
            total=signed(arithmetic.accumulator_bits),
            interleave=stages,
            latency=bits + 1,
            product_cycles=bits,
            group=GROUP,
            multiplies_in_dsp=False,
        )

    def entry_a(self) -> Entry:
        return Entry(self.a_layout)

    def entry_b(self) -> Entry:
        return Entry(self.b_layout)

    def exit(self) -> Exit:
        return Exit(self.arithmetic.accumulator_bits)

    @shared_module("arithmetic", "interleave")
    def elaborate(self, platform: object) -> Module:
        m = Module()
        control, a, b = pass_on(
            m, (self.control, self.control_out), (self.a, self.a_out), (self.b, self.b_out)
        )
        last = self.arithmetic.b.width - 1
        counted = Signal(range(last + 1), reset_less=True)
        bit = Signal(range(last + 1))
        m.d.comb += bit.eq(Mux(control.begin, 0, counted))
        m.d.sync += counted.eq(bit + 1)
        ends = Signal()
        m.d.comb += ends.eq(bit == last)

        terms = [Mux(b[i].bit_select(bit, 1), a[i], 0) for i in range(GROUP)]
        shape = signed(self.arithmetic.accumulator_bits)
        partials = [Signal(shape, name=f"partial_{i}", reset_less=True) for i in range(self.interleave)]
        totals = [Signal(shape, name=f"total_{i}", reset_less=True) for i in range(self.interleave)]
        term = Signal(shape)
        new = Signal(shape)
        m.d.comb += [
            term.eq(sum(terms) << bit),  # the last bit is the sign's
            new.eq(Mux(control.fold, 0, Mux(ends, partials[0] - term, partials[0] + term))),
        ]
        with m.If(ends):  # the next lane
            m.d.sync += [one.eq(other) for one, other in pairwise(partials)]
            m.d.sync += partials[-1].eq(new)
        with m.Elif(~control.fold):
            m.d.sync += partials[0].eq(new)
        folded = control.fold & ends
        with m.If(folded | self.shift):
            m.d.sync += Cat(*totals).eq(Cat(Mux(folded, partials[0], self.chain_in), *totals[:-1]))
        m.d.comb += self.chain_out.eq(totals[-1])
        return m
