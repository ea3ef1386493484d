"""The processing element of `quaver.golden.arithmetic.bitstream`, and the comparators that make streams."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.arithmetic.bitstream import Bitstream, Circuit, Generator, Sharing
from quaver.golden.validation import as_integer
from quaver.rtl.emit.shared_modules import shared_module
from quaver.rtl.pe.element import ProcessingElement
from quaver.rtl.pe.integer import Total
from quaver.rtl.pe.pass_on import pass_on


def stream_bit(arithmetic: Bitstream) -> data.StructLayout:
    """One cycle of an operand's stream: its bit, and beside a magnitude's the sign."""
    return data.StructLayout({"bit": 1} if arithmetic.bipolar else {"bit": 1, "sign": 1})


class Stream(wiring.Component):
    """What stands at the array's left or upper edge: a code, compared with a number, is a bit of its stream.

    Parameters
    ----------
    arithmetic
        Its numbers are drawn, or drawn once a product and exclusive-or a pattern of all cycles. A bipolar
        stream compares them with (1 + value)/2, another with the magnitude.
    is_a
        Whether the code is A's, and the pattern the cycle's bits reversed, or B's, and the cycle itself.

    ====== === ===============================================================================================
    code   in  the operand's code, as long as its product lasts
    begin  in  the first cycle of a product
    random in  what was drawn, as many bits as a number has
    number out `stream_bit`, combinational
    ====== === ===============================================================================================
    """

    def __init__(self, arithmetic: Bitstream, is_a: bool) -> None:
        self.arithmetic, self.is_a = arithmetic, is_a
        self.format = arithmetic.a if is_a else arithmetic.b
        super().__init__(
            {
                "code": In(self.format.bits),
                "begin": In(1),
                "random": In(arithmetic.number_bits(self.format)),
                "number": Out(stream_bit(arithmetic)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        number: Value = self.random
        if self.arithmetic.generator is Generator.VAN_DER_CORPUT:
            number = self.random ^ self._pattern(m)
        magnitude, sign = self.code[:-1], self.code[-1]
        threshold = Signal(len(self.random))
        if self.arithmetic.bipolar:
            half = 1 << self.format.fraction_bits
            m.d.comb += threshold.eq(Mux(sign, half - magnitude, half + magnitude))
        else:
            m.d.comb += [threshold.eq(magnitude), self.number.sign.eq(sign)]
        m.d.comb += self.number.bit.eq(number < threshold)
        return m

    def _pattern(self, m: Module) -> Value:
        """The cycle of the product as a number of as many bits as are drawn."""
        counted = Signal(range(self.arithmetic.length), reset_less=True)
        cycle = Signal.like(counted)
        m.d.comb += cycle.eq(Mux(self.begin, 0, counted))
        m.d.sync += counted.eq(cycle + 1)
        bits, more = len(self.random), len(self.random) - len(cycle)
        if not self.is_a:
            return Cat(Const(0, more), cycle) if more > 0 else cycle[-more:]
        return Cat(Const(0, max(more, 0)), *reversed(cycle[:bits]))


class BitstreamPE(ProcessingElement):
    """A gate and an up/down counter: N cycles a product, of one bit of each operand's stream.

    Parameters
    ----------
    arithmetic
        Formats, length of the streams, the counter's width.
    stages
        2, or from 3 to 7 a register between the gate and the counter: a longer pipeline would hold nothing.

    Attributes
    ----------
    interleave
        1: it works on one output.
    product_cycles
        N, the bits of a stream.
    latency
        Cycles from the first of a fold to the count in the total register: 2 or 3.
    draws, cycles_a_draw
        What its operands' comparators take.

    Ports and timing are every `ProcessingElement`'s, with L = 1; there is one fold an output, and `first`
    says nothing. A fold takes the count in its first cycle, and for the others nothing is counted: so that
    one without `begin` does nothing at all, which is the bubble of a circuit whose products always count.

    Raises
    ------
    ValueError
        A circuit or a sharing that is not built, or a pipeline of another depth.
    """

    def __init__(self, arithmetic: Bitstream, *, stages: int = 4) -> None:
        if arithmetic.circuit is Circuit.MUX:
            raise ValueError(
                f"circuit is {arithmetic.circuit}, but an element meets its K products one after the other, "
                f"where a multiplexer would pass by all cycles but one in K, chosen by a K that comes in "
                f"slices; take circuit='xnor' or 'and'"
            )
        if arithmetic.sharing is not Sharing.EDGES:
            raise ValueError(
                f"sharing is {arithmetic.sharing}, which shows what goes wrong, but the hardware has a "
                f"generator for each row and column; take sharing='edges'"
            )
        if not 2 <= as_integer(stages, "stages") <= 7:
            raise ValueError(f"stages is {stages}, but a processing element of bit streams has 2 to 7")
        self.arithmetic, self.registered = arithmetic, stages > 2
        super().__init__(
            arithmetic,
            a=stream_bit(arithmetic),
            b=stream_bit(arithmetic),
            total=signed(arithmetic.accumulator_bits),
            interleave=1,
            latency=2 + self.registered,
            product_cycles=arithmetic.length,
            multiplies_in_dsp=False,
            one_fold=True,
            draws=(arithmetic.number_bits(arithmetic.a), arithmetic.number_bits(arithmetic.b)),
            cycles_a_draw=1 if arithmetic.generator is Generator.LFSR else arithmetic.length,
        )

    def entry_a(self) -> Stream:
        """The comparator of a row's operands."""
        return Stream(self.arithmetic, True)

    def entry_b(self) -> Stream:
        """The comparator of a column's operands."""
        return Stream(self.arithmetic, False)

    def exit(self) -> Total:
        """The count, as it is."""
        return Total(self.arithmetic.accumulator_bits)

    @shared_module("arithmetic", "registered")
    def elaborate(self, platform: object) -> Module:
        m = Module()
        control, a, b = pass_on(
            m, (self.control, self.control_out), (self.a, self.a_out), (self.b, self.b_out)
        )
        if self.arithmetic.bipolar:
            one, down = ~control.fold, a.bit ^ b.bit
        else:
            one, down = a.bit & b.bit & ~control.fold, a.sign ^ b.sign
        takes: Value = control.fold & control.begin
        if self.registered:
            before = one, down, takes
            one, down, takes = (Signal(name=name, reset_less=True) for name in ("one", "down", "takes"))
            m.d.sync += [after.eq(bit) for after, bit in zip((one, down, takes), before, strict=True)]
        count = Signal(self.chain_out.shape(), reset_less=True)
        total = Signal(self.chain_out.shape(), reset_less=True)
        m.d.sync += count.eq(count + Cat(one, one & down).as_signed())
        with m.If(takes):
            m.d.sync += [count.eq(0), total.eq(count)]
        with m.Elif(self.shift):
            m.d.sync += total.eq(self.chain_in)
        m.d.comb += self.chain_out.eq(total)
        return m
