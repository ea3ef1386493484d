"""The processing element of `quaver.golden.arithmetic.chunked_float`."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.rounding import Rounding
from quaver.rtl.emit.shared_modules import shared_module
from quaver.rtl.float.adder import UnpackedAdder
from quaver.rtl.float.multiplier import UnpackedMultiplier, product_of
from quaver.rtl.float.unpacked import Pack, Unpack, Unpacked
from quaver.rtl.pe.control import CONTROL, pass_on


class ChunkedFloatPE(wiring.Component):
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
        Cycles from an operand at `a` to its sum in the total registers: L + 2.
    exit_latency
        Cycles that `exit()` takes: 0.
    operand, sum
        The `Unpacked` of operands and totals.

    ================== === =============================================================================
    control            in  `CONTROL`: what this cycle is
    a, b               in  operands, as `entry()` makes them of codes; not looked at in a fold
    a_random, b_random in  random bits of this cycle's rounding, combined by exclusive-or; where stochastic
    NAME_out           out for each of the above the same, a cycle later: control, a and a_random for the
                           PE on the right, b and b_random for the one below
    shift              in  the total registers move on by one
    chain_in           in  total of the PE above (the uppermost: any constant)
    chain_out          out total that leaves next; at the column's foot `exit()` makes a code of it
    ================== === =============================================================================

    Timing. All inputs of cycle t belong together and to lane t mod L. Folds come in groups of L consecutive
    cycles, one a lane; between two groups lies at least one product a lane. A bubble is a product of the
    arithmetic's `identity`: there is no enable.

    Totals. After a group of folds in cycles t … t+L−1, the totals stand in their registers from cycle t+2L+1
    on, chain_out being that of the lane of cycle t. `shift` may be 1 in any cycles from then on, up to the
    first cycle of the next group of folds; each moves the next lane's total to chain_out, and after L of them
    what entered at chain_in. All PEs of a column get `shift` in the same cycle. Between a group's first cycle
    and t+2L+1 `shift` is 0.

    There is no reset: one that reaches every register of an array is its slowest net. At power-up all sums
    are +0; after anything else, even a group of folds that was cut short, begin with one whose totals are
    ignored, and set `first` in the next.
    """

    def __init__(self, arithmetic: ChunkedFloat, *, stages: int = 4) -> None:
        if not 1 <= stages <= 7:
            raise ValueError(f"stages is {stages}, but the adder of a processing element has 1 to 7")
        self.arithmetic = arithmetic
        self.interleave = stages
        self.latency, self.exit_latency = stages + 2, 0
        accumulator = arithmetic.accumulator
        self.operand = Unpacked.normalised(arithmetic.operand)
        product = product_of(self.operand, self.operand)
        self.sum = Unpacked.of(accumulator)
        if product.quantum_exponent >= accumulator.quantum_exponent:
            # Every sum is a multiple of the products' quantum: with exponents down to it all are normal.
            self.sum = Unpacked(accumulator.precision, product.quantum_exponent, accumulator.max_exponent)
        self.addend = Unpacked(
            max(product.precision, self.sum.precision),
            product.min_exponent,
            max(product.max_exponent, self.sum.max_exponent),
        )
        self.stochastic = arithmetic.rounding is Rounding.STOCHASTIC
        self.random_bits = arithmetic.random_bits
        ports = {
            "control": In(CONTROL),
            "control_out": Out(CONTROL),
            "a": In(self.operand.layout),
            "a_out": Out(self.operand.layout),
            "b": In(self.operand.layout),
            "b_out": Out(self.operand.layout),
            "shift": In(1),
            "chain_in": In(self.sum.layout),
            "chain_out": Out(self.sum.layout),
        }
        if self.stochastic:
            ports |= {
                "a_random": In(self.random_bits),
                "a_random_out": Out(self.random_bits),
                "b_random": In(self.random_bits),
                "b_random_out": Out(self.random_bits),
            }
        super().__init__(ports)

    def entry(self) -> Unpack:
        """What stands at the array's left and upper edge: `code` → `number` for a or b. Combinational."""
        return Unpack(self.arithmetic.operand, normalise=True)

    def exit(self) -> Pack:
        """What stands at the foot of a column: `number` (chain_out) → `code` of the result. Combinational."""
        return Pack(self.sum, self.arithmetic.accumulator)

    @shared_module("arithmetic", "interleave")
    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.interleave
        control, a, b = pass_on(
            m, (self.control, self.control_out), (self.a, self.a_out), (self.b, self.b_out)
        )

        # The addend: the product, or in a fold the total that leaves the ring.
        m.submodules.multiply = multiply = UnpackedMultiplier(self.operand, self.operand)
        m.d.comb += [multiply.a.eq(a), multiply.b.eq(b)]
        totals = [
            Signal(self.sum.layout, init=self.sum.zero, name=f"total_{i}", reset_less=True)
            for i in range(lanes)
        ]
        product, total = multiply.product, totals[-1]
        offset = self.sum.bias - multiply.unpacked.bias
        addend = Signal(self.addend.layout, reset_less=True)
        with m.If(control.fold):
            m.d.sync += [
                addend.significand.eq(total.significand << (self.addend.precision - self.sum.precision)),
                addend.exponent.eq(total.exponent - offset),
            ]
        with m.Else():
            m.d.sync += [
                addend.significand.eq(
                    product.significand << (self.addend.precision - multiply.unpacked.precision)
                ),
                addend.exponent.eq(product.exponent),
            ]
        specials = [
            (addend.sign, total.sign, product.sign),
            (addend.infinite, total.infinite, product.infinite),
            (addend.nan, total.nan, product.nan),
        ]
        m.d.sync += [
            of.eq(Mux(control.fold, of_total & ~control.first, of_product))
            for of, of_total, of_product in specials
        ]
        # Zeros last: a synchronous reset of the register.
        with m.If(Mux(control.fold, control.first, multiply.zero)):
            m.d.sync += [addend.significand.eq(0), addend.exponent.eq(0)]

        # The loop: `partial` is the last of the adder's L registers.
        m.submodules.add = add = UnpackedAdder(
            self.arithmetic.accumulator,
            self.sum,
            self.addend,
            rounding=self.arithmetic.rounding,
            random_bits=self.random_bits,
            registers=lanes - 1,
        )
        folds = Signal(lanes, reset_less=True)  # bit i: the operation in stage i of the adder is a fold
        m.d.sync += folds.eq(Cat(control.fold, folds))
        folded = folds[-1]
        partial = Signal(self.sum.layout, init=self.sum.zero, reset_less=True)
        m.d.comb += [add.a.eq(partial), add.b.eq(addend)]
        m.d.sync += partial.eq(
            Mux(folded, self.sum.layout.const(self.sum.zero).as_value(), add.sum.as_value())
        )

        if self.stochastic:
            random = Signal(self.random_bits, reset_less=True)
            a_random, b_random = pass_on(
                m, (self.a_random, self.a_random_out), (self.b_random, self.b_random_out)
            )
            m.d.sync += random.eq(a_random ^ b_random)
            m.d.comb += add.random.eq(random)

        # The totals: a ring through the adder while folding, a chain down the column while shifting.
        with m.If(control.fold | folded | self.shift):
            m.d.sync += totals[0].eq(Mux(folded, add.sum.as_value(), self.chain_in.as_value()))
            m.d.sync += [later.eq(earlier) for earlier, later in pairwise(totals)]
        m.d.comb += self.chain_out.eq(totals[-1])
        return m
