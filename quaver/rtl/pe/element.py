"""What every processing element is to the array that it stands in."""

from __future__ import annotations

from typing import Any

from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.contracts import Arithmetic, Draws


def control_layout(product_cycles: int) -> data.StructLayout:
    """What a cycle is.

    `fold` 0: partial[lane] += a·b. `fold` 1: total[lane] += partial[lane], then partial[lane] = +0; with
    `first`, an output's first fold, total[lane] starts from +0. Where a product takes several cycles, `begin`
    is the first of them.
    """
    return data.StructLayout({"fold": 1, "first": 1} | ({"begin": 1} if product_cycles > 1 else {}))


class ProcessingElement(wiring.Component):
    """Sums up products of `interleave` outputs (lanes) in turn; the twin of an arithmetic of golden.

    A subclass says what the numbers are and how they are computed. Every output of an element is a register:
    the simulation clocks all elements together, in vector instructions.

    Parameters
    ----------
    arithmetic
        What it computes.
    a, b
        Shapes of the operands inside the array, of all that are side by side (`group`).
    total
        Shape of a finished sum.
    interleave
        Outputs L that it works on in turn.
    latency
        Cycles from the first of a fold to its total in the total register.
    exit_latency
        Cycles that `exit` takes.
    product_cycles
        Cycles N of one product, and of one fold.
    group
        How many k it takes at once: their operands come side by side, the first lowest. The arithmetic's
        `chunk` is a multiple, or no sum is longer than it.
    one_fold
        No sum is longer than a chunk: a total is what one fold leaves, and `first` says nothing.
    draws, cycles_a_draw
        Where the arithmetic draws for operands: the bits of a draw for a and for b; and how long a draw
        stays, a cycle, or the N of a product.
    multiplies_in_dsp
        Whether its product is worth a multiplier of the FPGA's.

    ================== === =============================================================================
    control            in  `control_layout`: what this cycle is
    a, b               in  operands, as `entry_a` and `entry_b` make them of codes; not looked at in a fold
    a_random, b_random in  draws of the element's row and column; only where the arithmetic draws for every
                           sum
    diagonal           in  32 bits, the state of the diagonals' source (`quaver.golden.random_bits`); its low
                           bits ^ a_random ^ b_random are the random bits of this cycle's rounding
    NAME_out           out for each of the above the same, a cycle later: control, a, a_random and diagonal
    for
                           the PE on the right, whose diagonal is a place further on; b and b_random for the
                           one below
    shift              in  the total registers move on by one
    chain_in           in  total of the PE above (the uppermost: any constant)
    chain_out          out total that leaves next; at the column's foot `exit` makes a code of it
    ================== === =============================================================================

    Timing. All inputs of cycle t belong together. A step is L·N cycles, N for each lane in turn; it is a
    product for every lane, or a fold. The operands of a product stay for its N cycles. A bubble is a product
    of the arithmetic's `identity`: there is no enable. Where it has none, a bubble is a fold without `begin`.

    Totals. After a fold whose first cycle is t, lane 0's total stands at chain_out from cycle t + latency
    + (L − 1)·N on. `shift` may be 1 in any cycles from then on, up to the first cycle of the next step of
    folds; each moves the next lane's total to chain_out, and after L of them what entered at chain_in. All
    PEs of a column get `shift` in the same cycle.

    There is no reset: one that reaches every register of an array is its slowest net. At power-up all sums
    are +0 if the arithmetic has an `identity`; after anything else, even a step of folds that was cut short,
    begin with one whose totals are ignored, and set `first` in the next.
    """

    def __init__(
        self,
        arithmetic: Arithmetic,
        *,
        a: Any,
        b: Any,
        total: Any,
        interleave: int,
        latency: int,
        exit_latency: int = 0,
        product_cycles: int = 1,
        group: int = 1,
        multiplies_in_dsp: bool,
        one_fold: bool = False,
        draws: tuple[int, int] = (0, 0),
        cycles_a_draw: int = 1,
    ) -> None:
        self.interleave, self.latency, self.exit_latency = interleave, latency, exit_latency
        self.product_cycles, self.group, self.multiplies_in_dsp = product_cycles, group, multiplies_in_dsp
        self.one_fold = one_fold
        self.draws, self.cycles_a_draw = draws, cycles_a_draw
        control = control_layout(product_cycles)
        ports = {
            "control": In(control),
            "control_out": Out(control),
            "a": In(a),
            "a_out": Out(a),
            "b": In(b),
            "b_out": Out(b),
            "shift": In(1),
            "chain_in": In(total),
            "chain_out": Out(total),
        }
        if arithmetic.draws is Draws.SUMS:
            bits = arithmetic.random_bits
            ports |= {
                "a_random": In(bits),
                "a_random_out": Out(bits),
                "b_random": In(bits),
                "b_random_out": Out(bits),
                "diagonal": In(32),
                "diagonal_out": Out(32),
            }
        super().__init__(ports)

    def entry_a(self) -> wiring.Component:
        """What stands at the array's left edge: `code` → `number`, combinational.

        ====== === ==================================================================
        code   in  codes of operand a, `group` of them, the first lowest
        begin  in  the first cycle of a product; only where one takes several
        random in  a draw of the edge's source; only where the arithmetic draws for operands
        number out what the element takes
        ====== === ==================================================================
        """
        raise NotImplementedError

    def entry_b(self) -> wiring.Component:
        """The same at its upper edge, for operand b."""
        raise NotImplementedError

    def exit(self) -> wiring.Component:
        """What stands at the foot of a column: `number` (chain_out) → `code`, after `exit_latency` cycles.

        ====== === ==================================================================
        number in  a total
        random in  the bits that round it; only where the arithmetic draws for results
        code   out of the result
        ====== === ==================================================================
        """
        raise NotImplementedError
