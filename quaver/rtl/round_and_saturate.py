"""An exact sum on its way to fixed point: rounded once, saturated."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.formats import FixedFormat
from quaver.golden.rounding import RANDOM_BITS
from quaver.golden.rounding import Rounding as RoundingMode
from quaver.golden.validation import as_integer


class RoundAndSaturate(wiring.Component):
    """Drops the low bits of an integer, rounding as `quaver.golden.rounding.round_integer`, and saturates.

    Parameters
    ----------
    width
        Bits of the sum, its sign among them.
    dropped_bits
        How many of them go, 0 … width − 1.
    result
        The format of what is left.
    rounding, random_bits
        Nearest, or stochastic with so many random bits, of whichever variant.
    registers
        0: combinational. 1: a register behind the addition, a cycle of latency.

    ====== === ========================================
    number in  the exact sum, signed
    random in  `random_bits` bits; only where stochastic
    code   out of `result`
    ====== === ========================================
    """

    def __init__(
        self,
        width: int,
        dropped_bits: int,
        result: FixedFormat,
        rounding: RoundingMode | str = RoundingMode.STOCHASTIC,
        random_bits: int = RANDOM_BITS,
        registers: int = 0,
    ) -> None:
        dropped_bits = as_integer(dropped_bits, "dropped_bits")
        random_bits = as_integer(random_bits, "random_bits")
        if not 0 <= dropped_bits < width:
            raise ValueError(f"dropped_bits is {dropped_bits}, but of {width} bits 0 to {width - 1} can go")
        if not 1 <= random_bits <= 32:
            raise ValueError(f"random_bits is {random_bits}, but stochastic rounding takes 1 … 32")
        self.dropped_bits, self.result, self.registers = dropped_bits, result, registers
        self.rounding, self.random_bits = RoundingMode(rounding), random_bits
        if self.rounding is RoundingMode.TOWARD_ZERO:
            raise ValueError(f"rounding is {rounding}, but sums round to nearest or stochastically")
        ports = {"number": In(signed(width)), "code": Out(result.width)}
        if self.rounding.draws:
            ports["random"] = In(random_bits)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        dropped, highest = self.dropped_bits, self.result.max_code
        # What is added to the sum before its low bits are cut off.
        up = Signal(dropped + 1)
        if dropped and self.rounding.draws:
            bits, random = self.random_bits, self.random
            if self.rounding is RoundingMode.STOCHASTIC_B:
                bits, random = bits + 1, Cat(Const(1, 1), random)
            shift = dropped - bits
            aligned = (random << shift if shift >= 0 else random >> -shift)[:dropped]
            if self.rounding is RoundingMode.STOCHASTIC_C and shift > 0:
                # Half of a step of the random bits, less one unless the step is odd: to nearest even.
                half = Signal(shift)
                m.d.comb += half.eq((1 << (shift - 1)) - 1 + self.number[shift])
                aligned = Signal(dropped + 1)
                m.d.comb += aligned.eq((random << shift) + half)
            m.d.comb += up.eq(aligned)
        elif dropped:
            m.d.comb += up.eq((1 << (dropped - 1)) - 1 + self.number[dropped])
        total = Signal(signed(len(self.number) + 1))
        m.d["sync" if self.registers else "comb"] += total.eq(self.number + up)
        rounded = Signal(signed(max(len(total) - dropped, self.result.width)))
        m.d.comb += rounded.eq(total[dropped:].as_signed())
        # The sign, and all that lies between it and the result's own sign bit: alike if the number fits.
        upper = rounded[self.result.width - 1 :]
        overflows = upper.any() & ~upper.all()
        end = Mux(rounded < 0, ~highest, highest)
        m.d.comb += self.code.eq(Mux(overflows, end, rounded))
        return m
