"""The systolic array with requantisation at the foot of its columns: the next layer's codes leave it."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.arithmetic.integer import Integer
from quaver.golden.requantisation import MAX_SHIFT, MULTIPLIER_BITS, OFFSET_BITS
from quaver.rtl.array.systolic import SystolicArray
from quaver.rtl.requantisation import RequantisationUnit


class RequantisedArray(wiring.Component):
    """A `SystolicArray` of integers, and a `RequantisationUnit` below each column.

    Parameters
    ----------
    arithmetic, rows, columns, stages
        As of the array.
    bits
        Of the codes that leave.

    Attributes
    ----------
    array
        The array; all its ports but the results are passed on.
    latency
        As the array's, to column 0's first code.

    =========== === ==========================================================================================
    control     in  as of the array
    a, b        in  as of the array
    multipliers in  `columns` multipliers, a column's each; column c's may change c cycles after column 0's
    offsets     in  likewise
    shift       in  the same for all columns
    valid       out column 0 has a code; column c has one c cycles later
    codes       out `columns` codes, skewed likewise, in the array's order
    =========== === ==========================================================================================

    A column's multiplier and offset are those of the sums that leave it: they stay from its first result
    (`latency` − 4 cycles after the first of a last fold, and c more) to its last.
    """

    def __init__(self, arithmetic: Integer, rows: int, columns: int, stages: int, bits: int) -> None:
        self.array = SystolicArray(arithmetic, rows, columns, stages)
        self.units = [RequantisationUnit(arithmetic.accumulator_bits, bits) for _ in range(columns)]
        self.latency = self.array.latency + RequantisationUnit.latency
        ports = self.array.signature.members
        super().__init__(
            {name: ports[name] for name in ("control", "a", "b")}
            | {
                "multipliers": In(data.ArrayLayout(signed(MULTIPLIER_BITS), columns)),
                "offsets": In(data.ArrayLayout(signed(OFFSET_BITS), columns)),
                "shift": In(range(MAX_SHIFT + 1)),
                "valid": Out(1),
                "codes": Out(data.ArrayLayout(bits, columns)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.array = array = self.array
        m.d.comb += [array.control.eq(self.control), array.a.eq(self.a), array.b.eq(self.b)]
        for c, unit in enumerate(self.units):
            m.submodules[f"unit_{c}"] = unit
            m.d.comb += [
                unit.number.eq(array.results[c]),
                unit.multiplier.eq(self.multipliers[c]),
                unit.offset.eq(self.offsets[c]),
                unit.shift.eq(self.shift),
                self.codes[c].eq(unit.code),
            ]
        valid = Signal(RequantisationUnit.latency)
        m.d.sync += valid.eq(Cat(array.valid, valid))
        m.d.comb += self.valid.eq(valid[-1])
        return m
