"""The roundings of a magnitude: the twin of `quaver.golden.rounding.round_magnitude`."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.rounding import RANDOM_BITS
from quaver.golden.rounding import Rounding as RoundingMode
from quaver.golden.validation import as_integer


class Rounding(wiring.Component):
    """Drops the low bits of a magnitude, rounding. Combinational.

    Parameters
    ----------
    width
        Bits of the magnitude.
    dropped_bits
        How many of them go, 0 … width − 1.
    rounding, random_bits
        As in `quaver.golden.rounding.round_magnitude`.

    ========= === ==========================================================================
    magnitude in  `width` bits
    random    in  `random_bits` bits; only where `rounding` is stochastic
    up        out whether the kept bits, ``magnitude >> dropped_bits``, are to be incremented
    rounded   out the kept bits plus `up`: one bit more, for the carry
    ========= === ==========================================================================
    """

    def __init__(
        self,
        width: int,
        dropped_bits: int,
        rounding: RoundingMode | str = RoundingMode.NEAREST_EVEN,
        random_bits: int = RANDOM_BITS,
    ) -> None:
        width, dropped_bits = as_integer(width, "width"), as_integer(dropped_bits, "dropped_bits")
        random_bits = as_integer(random_bits, "random_bits")
        if width < 1:
            raise ValueError(f"width is {width}, but a magnitude has at least 1 bit")
        if not 0 <= dropped_bits < width:
            raise ValueError(f"dropped_bits is {dropped_bits}, but of {width} bits 0 to {width - 1} can go")
        if not 1 <= random_bits <= 32:
            raise ValueError(f"random_bits is {random_bits}, but stochastic rounding takes 1 … 32")
        self.width, self.dropped_bits, self.random_bits = width, dropped_bits, random_bits
        self.rounding = RoundingMode(rounding)
        ports = {"magnitude": In(width), "up": Out(1), "rounded": Out(width - dropped_bits + 1)}
        if self.rounding.draws:
            ports["random"] = In(random_bits)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        kept, dropped = self.magnitude[self.dropped_bits :], self.magnitude[: self.dropped_bits]
        if self.dropped_bits and self.rounding is RoundingMode.NEAREST_EVEN:
            m.d.comb += self.up.eq(dropped[-1] & (dropped[:-1].any() | kept[0]))
        elif self.dropped_bits and self.rounding.draws:
            bits, random = self.random_bits, self.random
            if self.rounding is RoundingMode.STOCHASTIC_B:
                bits, random = bits + 1, Cat(Const(1, 1), random)
            below = Cat(Const(0, bits), dropped)
            compared, nearest = below[-bits:], Const(0, 1)
            if self.rounding is RoundingMode.STOCHASTIC_C:
                lost = below[:-bits]
                nearest = lost[-1] & (lost[:-1].any() | compared[0])
            total = Signal(bits + 1)
            m.d.comb += total.eq(compared + random + nearest)
            m.d.comb += self.up.eq(total[-1])
        m.d.comb += self.rounded.eq(kept + self.up)
        return m
