"""The exact product of two small floats."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.formats import FloatFormat
from quaver.golden.validation import as_integer
from quaver.rtl.float.unpacked import Unpack, Unpacked
from quaver.rtl.pipeline import Pipeline


def product_of(a: Unpacked, b: Unpacked) -> Unpacked:
    """What holds every product of an `a` and a `b` exactly, normalised."""
    return Unpacked(
        a.precision + b.precision,
        a.quantum_exponent + b.quantum_exponent,
        a.max_exponent + b.max_exponent + 1,
    )


class UnpackedMultiplier(wiring.Component):
    """Product of two normalised numbers, exact and normalised. Combinational.

    ========= === =================================================
    a, b      in  laid as `a_unpacked`, `b_unpacked` say
    product   out laid as `unpacked` says, but not cleared
    zero      out significand and exponent are to be 0
    ========= === =================================================
    """

    def __init__(self, a: Unpacked, b: Unpacked) -> None:
        if a.gradual or b.gradual:
            raise ValueError("the multiplier takes normalised numbers; unpack with normalise=True")
        self.a_unpacked, self.b_unpacked = a, b
        self.unpacked = product_of(a, b)
        super().__init__(
            {"a": In(a.layout), "b": In(b.layout), "product": Out(self.unpacked.layout), "zero": Out(1)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b, product = self.a, self.b, self.product
        a_zero, b_zero = ~a.significand[-1], ~b.significand[-1]
        m.d.comb += [
            product.sign.eq(a.sign ^ b.sign),
            product.infinite.eq(a.infinite | b.infinite),
            product.nan.eq(a.nan | b.nan | (a.infinite & b_zero) | (b.infinite & a_zero)),
        ]
        raw = Signal(self.unpacked.precision)
        a_bits, b_bits = self.a_unpacked.precision - 1, self.b_unpacked.precision - 1
        if a_bits + b_bits <= 6:
            # Few bits, the leading ones being constant: a table, which becomes one or two LUTs a bit.
            table = [
                ((1 << a_bits) + i) * ((1 << b_bits) + j)
                for j in range(1 << b_bits)
                for i in range(1 << a_bits)
            ]
            m.d.comb += raw.eq(
                Array(Const(p, len(raw)) for p in table)[Cat(a.significand[:-1], b.significand[:-1])]
            )
        else:
            m.d.comb += raw.eq(Cat(a.significand[:-1], Const(1, 1)) * Cat(b.significand[:-1], Const(1, 1)))
        m.d.comb += [
            product.significand.eq(Mux(raw[-1], raw, raw << 1)),
            product.exponent.eq(a.exponent + b.exponent + raw[-1]),
            self.zero.eq(a_zero | b_zero),
        ]
        return m


class FloatMultiplier(wiring.Component):
    """Exact product of two floats.

    Parameters
    ----------
    a_format, b_format
        Formats of the operands.
    stages
        0: combinational. 1: a register at the output. 2: another behind the unpacked operands.
        Latency is `stages` cycles, the initiation interval 1.

    Attributes
    ----------
    unpacked
        The product's `Unpacked`, from bit 0 up: significand (leading 1 on top, or all 0), exponent, sign,
        infinite, nan; ``unpacked.decode(bits)`` is its exact value. FP8 × FP8: 6 + 6 + 1 + 1 + 1 bits, the
        exponent biased by 32. ∞ · 0 is NaN; a zero takes the exclusive-or of the signs.

    ========= === =================================
    a         in  code of `a_format`
    b         in  code of `b_format`
    product   out laid as `unpacked.layout` says
    ========= === =================================
    """

    def __init__(self, a_format: FloatFormat, b_format: FloatFormat, *, stages: int = 0) -> None:
        if not 0 <= as_integer(stages, "stages") <= 2:
            raise ValueError(f"stages is {stages}, but the multiplier has 0 to 2")
        self.a_format, self.b_format, self.stages = a_format, b_format, stages
        self.unpacked = product_of(Unpacked.normalised(a_format), Unpacked.normalised(b_format))
        super().__init__(
            {"a": In(a_format.width), "b": In(b_format.width), "product": Out(self.unpacked.layout)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unpack_a = unpack_a = Unpack(self.a_format, normalise=True)
        m.submodules.unpack_b = unpack_b = Unpack(self.b_format, normalise=True)
        m.submodules.multiply = multiply = UnpackedMultiplier(unpack_a.unpacked, unpack_b.unpacked)
        m.d.comb += unpack_a.code.eq(self.a)
        m.d.comb += unpack_b.code.eq(self.b)
        pipe = Pipeline(m, ("unpack", "multiply")[2 - self.stages :])
        pipe.a, pipe.b = unpack_a.number, unpack_b.number
        pipe.step("unpack")
        m.d.comb += [multiply.a.as_value().eq(pipe.a), multiply.b.as_value().eq(pipe.b)]
        product = Signal(self.unpacked.layout)
        m.d.comb += product.eq(multiply.product)
        with m.If(multiply.zero):
            m.d.comb += [product.significand.eq(0), product.exponent.eq(0)]
        pipe.product = product
        pipe.step("multiply", "a", "b")
        m.d.comb += self.product.as_value().eq(pipe.product)
        return m
