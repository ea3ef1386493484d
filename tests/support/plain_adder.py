"""An adder to check others against: the textbook's single path, nothing shared, nothing clever."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.formats import FloatFormat


class PlainAdder(wiring.Component):
    """sum = a + b, for a format with infinities that does not saturate: to nearest even, or stochastically
    with as many random bits as there are.

    `broken` takes ties to odd, or drops the last random bit, to see that a proof can fail.
    """

    def __init__(self, fmt: FloatFormat, *, random_bits: int = 0, broken: bool = False) -> None:
        self.format, self.random_bits, self.broken = fmt, random_bits, broken
        ports = {"a": In(fmt.width), "b": In(fmt.width), "sum": Out(fmt.width)}
        super().__init__(ports | ({"random": In(random_bits)} if random_bits else {}))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt, mantissa_bits, p = self.format, self.format.mantissa_bits, self.format.precision
        top = (1 << fmt.exponent_bits) - 1

        # x is the larger magnitude, y the smaller.
        x = Signal(fmt.width)
        y = Signal(fmt.width)
        swapped = self.a[:-1] < self.b[:-1]
        m.d.comb += [x.eq(Mux(swapped, self.b, self.a)), y.eq(Mux(swapped, self.a, self.b))]

        def fields(code: Signal) -> tuple[Signal, Signal]:
            exponent = Signal(fmt.exponent_bits)
            significand = Signal(p)
            normal = code[mantissa_bits:-1] != 0
            m.d.comb += exponent.eq(Mux(normal, code[mantissa_bits:-1], 1))
            m.d.comb += significand.eq(Cat(code[:mantissa_bits], normal))
            return exponent, significand

        x_exponent, x_significand = fields(x)
        y_exponent, y_significand = fields(y)

        # Below the significand: a bit for normalisation, what the rounding looks at, and the sticky bit.
        below = 2 + max(self.random_bits, 1)
        wide = Signal(2 * p + below)
        aligned = Signal(p + below)
        dropped = Signal()
        distance = Signal(fmt.exponent_bits)
        farthest = min(p + below, top)
        m.d.comb += distance.eq(x_exponent - y_exponent)
        shift = Mux(distance > farthest, farthest, distance)
        m.d.comb += wide.eq(Cat(Const(0, p + below), y_significand) >> shift)
        m.d.comb += dropped.eq(wide[: p + 1].any())
        m.d.comb += aligned.eq(Cat(dropped, wide[p + 1 :]))
        total = Signal(p + below + 1)
        left = Cat(Const(0, below), x_significand)
        with m.If(x[-1] == y[-1]):
            m.d.comb += total.eq(left + aligned)
        with m.Else():
            m.d.comb += total.eq(left - aligned)

        # Normalise: a carry moves right by one, leading zeros left, not below the smallest exponent.
        normal = Signal(p + below)
        exponent = Signal(fmt.exponent_bits + 1)
        with m.If(total[-1]):
            m.d.comb += normal.eq(Cat(total[0] | total[1], total[2:]))
            m.d.comb += exponent.eq(x_exponent + 1)
        for zeros in range(p + below):
            with m.Elif(total[p + below - 1 - zeros] | (x_exponent == zeros + 1)):
                m.d.comb += normal.eq(total << zeros)
                m.d.comb += exponent.eq(x_exponent - zeros)

        # Round: the code of the kept bits and the code after it are neighbours.
        kept, rest = normal[below:], normal[:below]
        up = Signal()
        code = Signal(fmt.width)
        if self.random_bits:
            random = self.random & ~1 if self.broken else self.random
            m.d.comb += up.eq((rest[2:] + random)[-1])
        else:
            even = ~kept[0] if self.broken else kept[0]
            m.d.comb += up.eq(rest[-1] & (rest[:-1].any() | even))
        truncated = Cat(kept[:-1], (exponent - ~kept[-1])[: fmt.exponent_bits + 1])
        m.d.comb += code.eq(truncated + up)

        a_top, b_top = self.a[:-1] >= top << mantissa_bits, self.b[:-1] >= top << mantissa_bits
        nan = (self.a[:-1] > fmt.infinity_code) | (self.b[:-1] > fmt.infinity_code)
        with m.If(nan | (a_top & b_top & (self.a[-1] != self.b[-1]))):
            m.d.comb += self.sum.eq(fmt.nan_code)
        with m.Elif(a_top | b_top):
            m.d.comb += self.sum.eq(x)
        with m.Elif(total == 0):
            m.d.comb += self.sum.eq(Cat(Const(0, fmt.width - 1), self.a[-1] & self.b[-1]))
        with m.Elif(code >= fmt.infinity_code):
            m.d.comb += self.sum.eq(Cat(Const(fmt.infinity_code, fmt.width - 1), x[-1]))
        with m.Else():
            m.d.comb += self.sum.eq(Cat(code[:-1], x[-1]))
        return m
