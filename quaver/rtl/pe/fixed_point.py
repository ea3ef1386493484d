"""The processing element of `quaver.golden.arithmetic.fixed_point`."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.validation import as_integer
from quaver.rtl.emit.shared_modules import shared_module
from quaver.rtl.pe.element import ProcessingElement
from quaver.rtl.pe.pass_on import pass_on
from quaver.rtl.round_and_saturate import RoundAndSaturate


class Operand(wiring.Component):
    """What stands at the array's left and upper edge: wires that read a code as a number.

    ====== === ===============================================================================================
    code   in  a code of the operand's format
    number out the same bits, in two's complement
    ====== === ===============================================================================================
    """

    def __init__(self, width: int) -> None:
        super().__init__({"code": In(width), "number": Out(signed(width))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.number.eq(self.code)
        return m


class FixedPointPE(ProcessingElement):
    """One product a cycle on the FPGA's multiplier, summed up exactly in a wide accumulator.

    Parameters
    ----------
    arithmetic
        Formats and the accumulator's width.
    stages
        Cycles from an operand to the sum, 2 … 7: a register before the multiplier, the sum; from 3 on, a
        register behind the multiplier; from 4 on, a second one before it; the others behind it.

    Attributes
    ----------
    interleave
        1: it works on one output.
    latency
        Cycles from an operand at `a` to its sum in the total register: `stages`.
    exit_latency
        1.

    Ports and timing are every `ProcessingElement`'s, with L = N = 1; there is one fold an output, and `first`
    says nothing. After a fold in cycle t, `shift` may be 1 up to the cycle of the next fold.
    """

    def __init__(self, arithmetic: FixedPoint, *, stages: int = 4) -> None:
        if not 2 <= as_integer(stages, "stages") <= 7:
            raise ValueError(f"stages is {stages}, but a fixed-point processing element has 2 to 7")
        self.arithmetic, self.stages = arithmetic, stages
        super().__init__(
            arithmetic,
            a=signed(arithmetic.a.width),
            b=signed(arithmetic.b.width),
            total=signed(arithmetic.accumulator_bits),
            interleave=1,
            latency=stages,
            exit_latency=1,
            multiplies_in_dsp=True,
            one_fold=True,
        )

    def entry_a(self) -> Operand:
        """The code as a signed number."""
        return Operand(self.arithmetic.a.width)

    def entry_b(self) -> Operand:
        """The code as a signed number."""
        return Operand(self.arithmetic.b.width)

    def exit(self) -> RoundAndSaturate:
        """The total, rounded and saturated."""
        ar = self.arithmetic
        widths = ar.accumulator_bits, ar.dropped_bits, ar.result
        return RoundAndSaturate(*widths, ar.rounding, ar.random_bits, registers=self.exit_latency)

    @shared_module("arithmetic", "stages")
    def elaborate(self, platform: object) -> Module:
        m = Module()
        control, a, b = pass_on(
            m, (self.control, self.control_out), (self.a, self.a_out), (self.b, self.b_out)
        )
        fold = control.fold
        second = self.stages > 3
        if second:
            before = a, b, fold
            a = Signal(self.a.shape(), name="a_1", reset_less=True)
            b = Signal(self.b.shape(), name="b_1", reset_less=True)
            fold = Signal(name="fold_in_multiplier", reset_less=True)
            m.d.sync += [after.eq(value) for after, value in zip((a, b, fold), before, strict=True)]
        product = a * b
        for i in range(self.stages - 2 - second):
            behind = Signal(product.shape(), name=f"product_{i}", reset_less=True)
            folds = Signal(name=f"fold_{i}", reset_less=True)
            m.d.sync += [behind.eq(product), folds.eq(fold)]
            product, fold = behind, folds
        partial = Signal(self.chain_out.shape(), reset_less=True)
        total = Signal(self.chain_out.shape(), reset_less=True)
        m.d.sync += partial.eq(partial + product)
        with m.If(fold):
            m.d.sync += [partial.eq(0), total.eq(partial)]
        with m.Elif(self.shift):
            m.d.sync += total.eq(self.chain_in)
        m.d.comb += self.chain_out.eq(total)
        return m
