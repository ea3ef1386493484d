"""The processing element of `quaver.golden.arithmetic.chunked_float`."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.random_bits import DIAGONAL
from quaver.golden.validation import as_integer
from quaver.rtl.emit.shared_modules import shared_module
from quaver.rtl.float.adder import UnpackedAdder
from quaver.rtl.float.multiplier import UnpackedMultiplier, product_of
from quaver.rtl.float.unpacked import Normalise, Pack, Unpack, Unpacked, fold_of, quantum_of_sums
from quaver.rtl.pe.element import ProcessingElement
from quaver.rtl.pe.pass_on import pass_on
from quaver.rtl.random_sources import places_on

#: Significands of so many bits are multiplied in LUTs, wider ones in the FPGA's multipliers.
LARGEST_IN_LOGIC = 4


class ChunkedFloatPE(ProcessingElement):
    """Works on `interleave` outputs (lanes) in turn: one product, or one fold, every cycle.

    Parameters
    ----------
    arithmetic
        Formats, chunk, rounding.
    stages
        Adder stages L, 1 … 7: as many lanes, whose partial sums live in the adder's pipeline registers.

    Attributes
    ----------
    interleave
        Lanes L.
    latency
        L + 2 + W.
    operand, sum, total
        The `Unpacked` of operands, partial sums and totals.
    waits
        W, cycles that a partial sum takes on its way to the total: 1 where its subnormals are normalised.

    Ports and timing are every `ProcessingElement`'s, with N = 1: all inputs of cycle t belong to lane t mod
    L. Between two groups of folds lies at least one product a lane, and between a group's first cycle t and
    t + 2L + W + 1 `shift` is 0.

    Totals of a format of their own have an adder of their own, of as many stages.

    Raises
    ------
    ValueError
        `stages` out of range, or a DLFloat.
    """

    def __init__(self, arithmetic: ChunkedFloat, *, stages: int = 4) -> None:
        if not 1 <= as_integer(stages, "stages") <= 7:
            raise ValueError(f"stages is {stages}, but the adder of a processing element has 1 to 7")
        self.arithmetic = arithmetic
        accumulator = arithmetic.accumulator
        self.operand = Unpacked.normalised(arithmetic.operand)
        product = product_of(self.operand, self.operand)
        self.sum = Unpacked.of(accumulator)
        quantum = quantum_of_sums(accumulator, product)
        if quantum >= accumulator.quantum_exponent:
            # Every sum is a multiple of this quantum: with exponents down to it all are normal.
            self.sum = Unpacked(accumulator.precision, quantum, accumulator.max_exponent)
        self.total = self.folded = self.sum
        if arithmetic.total is not None:
            self.total, self.folded = fold_of(arithmetic.total, self.sum)
        self.waits = int(self.folded != self.sum)
        self.addend = Unpacked(
            max(product.precision, self.sum.precision),
            min(product.min_exponent, self.sum.min_exponent),
            max(product.max_exponent, self.sum.max_exponent),
        )
        super().__init__(
            arithmetic,
            a=self.operand.layout,
            b=self.operand.layout,
            total=self.total.layout,
            interleave=stages,
            latency=stages + 2 + self.waits,
            multiplies_in_dsp=self.operand.precision > LARGEST_IN_LOGIC,
        )

    def entry_a(self) -> Unpack:
        """The operand, unpacked."""
        return Unpack(self.arithmetic.operand, normalise=True)

    def entry_b(self) -> Unpack:
        """The operand, unpacked."""
        return self.entry_a()

    def exit(self) -> Pack:
        """The total, packed."""
        return Pack(self.total, self.arithmetic.result)

    @shared_module("arithmetic", "interleave")
    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.interleave
        control, a, b = pass_on(
            m, (self.control, self.control_out), (self.a, self.a_out), (self.b, self.b_out)
        )

        # The addend: the product, or in a fold the total that leaves the ring, if one adder does both.
        own = self.arithmetic.total is not None
        folds_here = Const(0, 1) if own else control.fold
        m.submodules.multiply = multiply = UnpackedMultiplier(self.operand, self.operand)
        m.d.comb += [multiply.a.eq(a), multiply.b.eq(b)]
        totals = [
            Signal(self.total.layout, init=self.total.zero, name=f"total_{i}", reset_less=True)
            for i in range(lanes)
        ]
        product, total = multiply.product, totals[-1]
        offset = self.sum.bias - self.addend.bias
        addend = Signal(self.addend.layout, reset_less=True)
        with m.If(folds_here):
            m.d.sync += [
                addend.significand.eq(total.significand << (self.addend.precision - self.sum.precision)),
                addend.exponent.eq(total.exponent - offset),
            ]
        with m.Else():
            m.d.sync += [
                addend.significand.eq(
                    product.significand << (self.addend.precision - multiply.unpacked.precision)
                ),
                addend.exponent.eq(product.exponent + (self.addend.bias - multiply.unpacked.bias)),
            ]
        specials = [
            (addend.sign, total.sign, product.sign),
            (addend.infinite, total.infinite, product.infinite),
            (addend.nan, total.nan, product.nan),
        ]
        m.d.sync += [
            of.eq(Mux(folds_here, of_total & ~control.first, of_product))
            for of, of_total, of_product in specials
        ]
        # Zeros last: a synchronous reset of the register.
        with m.If(Mux(folds_here, control.first, multiply.zero)):
            m.d.sync += [addend.significand.eq(0), addend.exponent.eq(0)]

        # The loop: `partial` is the last of the adder's L registers.
        m.submodules.add = add = UnpackedAdder(
            self.arithmetic.accumulator,
            self.sum,
            self.addend,
            rounding=self.arithmetic.rounding,
            random_bits=self.arithmetic.random_bits,
            registers=lanes - 1,
        )
        folds = Signal(lanes + 1, reset_less=True)  # bit i: the operation in stage i of the adder is a fold
        m.d.sync += folds.eq(Cat(control.fold, folds))
        folded = folds[lanes - 1]
        partial = Signal(self.sum.layout, init=self.sum.zero, reset_less=True)
        m.d.comb += [add.a.eq(partial), add.b.eq(addend)]
        m.d.sync += partial.eq(
            Mux(folded, self.sum.layout.const(self.sum.zero).as_value(), add.sum.as_value())
        )

        if self.arithmetic.stochastic:
            bits = self.arithmetic.random_bits
            random = Signal(bits, reset_less=True)
            diagonal = Signal(32, reset_less=True)
            a_random, b_random = pass_on(
                m, (self.a_random, self.a_random_out), (self.b_random, self.b_random_out)
            )
            # A hop shifts: what came in is still there, but for the highest bits.
            m.d.sync += [
                diagonal.eq(places_on(self.diagonal, DIAGONAL, DIAGONAL.per_column)),
                random.eq(a_random ^ b_random ^ diagonal[DIAGONAL.hop * DIAGONAL.per_column :][:bits]),
            ]
            m.d.comb += [self.diagonal_out.eq(diagonal), add.random.eq(random)]

        folder, pops, complete = add, control.fold, folded
        if own:
            m.submodules.fold = folder = UnpackedAdder(
                self.arithmetic.result,
                self.total,
                self.folded,
                rounding=self.arithmetic.rounding,
                random_bits=self.arithmetic.random_bits,
                registers=lanes - 1,
            )
            first, drawn = control.first, random if self.arithmetic.stochastic else Const(0, 0)
            m.d.comb += folder.b.eq(partial)
            if self.waits:  # everything is a register later
                m.submodules.normalise = normalise = Normalise(self.sum)
                normal = Signal(self.folded.layout, reset_less=True)
                first = Signal(reset_less=True)
                drawn = Signal(len(drawn), name="drawn", reset_less=True)
                m.d.comb += [normalise.number.eq(partial), folder.b.eq(normal)]
                m.d.sync += [normal.eq(normalise.normal), first.eq(control.first)]
                if self.arithmetic.stochastic:
                    m.d.sync += drawn.eq(random)
                pops, complete = folds[0], folds[lanes]
            augend = Signal(self.total.layout, init=self.total.zero, reset_less=True)
            zero = self.total.layout.const(self.total.zero).as_value()
            m.d.sync += augend.eq(Mux(first, zero, total.as_value()))
            m.d.comb += folder.a.eq(augend)
            if self.arithmetic.stochastic:
                m.d.comb += folder.random.eq(drawn)

        # The totals: a ring through the adder while folding, a chain down the column while shifting.
        with m.If(pops | complete | self.shift):
            m.d.sync += totals[0].eq(Mux(complete, folder.sum.as_value(), self.chain_in.as_value()))
            m.d.sync += [later.eq(earlier) for earlier, later in pairwise(totals)]
        m.d.comb += self.chain_out.eq(totals[-1])
        return m
