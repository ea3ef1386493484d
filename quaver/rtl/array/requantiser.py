"""Requantisation at the foot of the columns: the next layer's codes leave the array in place of sums."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.requantisation import MAX_SHIFT, MULTIPLIER_BITS, OFFSET_BITS
from quaver.rtl.commands import PARAMETER_WORDS
from quaver.rtl.requantisation import RequantisationUnit


class Requantiser(wiring.Component):
    """A `RequantisationUnit` below each column, with that column's parameters, and a way round it for sums.

    Parameters
    ----------
    columns, width
        Number of columns; bits of a sum, its sign among them.
    bits
        Of a code.

    Attributes
    ----------
    latency
        Cycles from a sum to what leaves for it, a code or the same sum: `RequantisationUnit.latency`.

    ========= === ============================================================================================
    sums      in  array of `columns` sums: column c is c cycles later than column 0
    come      in  column 0 has a sum; it holds for column c as many cycles later
    on        in  codes leave; otherwise sums
    shift     in  the same for all columns
    write     in  `word` is a parameter
    parameter in  which: `PARAMETER_WORDS` times the column, plus 0 for its multiplier, 1 and 2 for the lower
                  and the upper bits of its offset
    word      in  32 bits, of which the lowest count
    results   out `columns` numbers of `width` bits, skewed like the sums: sums, or codes with zeros above
    valid     out column 0 has one
    ========= === ============================================================================================

    `on`, `shift` and parameters change only while no sum is under way.
    """

    latency = RequantisationUnit.latency

    def __init__(self, columns: int, width: int, bits: int) -> None:
        self.units = [RequantisationUnit(width, bits) for _ in range(columns)]
        self.columns, self.width, self.bits = columns, width, bits
        super().__init__(
            {
                "sums": In(data.ArrayLayout(signed(width), columns)),
                "come": In(1),
                "on": In(1),
                "shift": In(range(MAX_SHIFT + 1)),
                "write": In(1),
                "parameter": In(range(PARAMETER_WORDS * columns)),
                "word": In(32),
                "results": Out(data.ArrayLayout(width, columns)),
                "valid": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for c, unit in enumerate(self.units):
            m.submodules[f"unit_{c}"] = unit
            multiplier = Signal(MULTIPLIER_BITS, name=f"multiplier_{c}", reset_less=True)
            offset = Signal(OFFSET_BITS, name=f"offset_{c}", reset_less=True)
            for i, target in enumerate((multiplier, offset[:32], offset[32:])):
                with m.If(self.write & (self.parameter == PARAMETER_WORDS * c + i)):
                    m.d.sync += target.eq(self.word)
            number = self.sums[c]
            m.d.comb += [
                unit.number.eq(number),
                unit.multiplier.eq(multiplier),
                unit.offset.eq(offset),
                unit.shift.eq(self.shift),
            ]
            for i in range(self.latency):
                before, number = number, Signal(self.width, name=f"sum_{c}_{i}", reset_less=True)
                m.d.sync += number.eq(before)
            m.d.comb += self.results[c].eq(Mux(self.on, unit.code, number))
        come = Signal(self.latency)
        m.d.sync += come.eq(Cat(self.come, come))
        m.d.comb += self.valid.eq(come[-1])
        return m
