"""The processing element of `quaver.golden.arithmetic.integer`."""

from __future__ import annotations

import numpy as np
from amaranth.hdl import Cat, Const, Module, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.arithmetic.integer import Integer, largest_product
from quaver.golden.formats import IntegerFormat, Levels
from quaver.golden.validation import as_integer
from quaver.rtl.emit.shared_modules import shared_module
from quaver.rtl.pe.element import ProcessingElement
from quaver.rtl.pe.pass_on import pass_on

#: Bits of an operand of the FPGA's multiplier, its sign included (MULT18X18D of an ECP5).
MULTIPLIER_BITS = 18
#: The widest operand, of two that are alike, whose products are made in LUTs unless something else is asked
#: for; and how many products an element makes there in a cycle. Both measured: bench/density.py.
LARGEST_IN_LOGIC = 5
GROUP = 8
LUT_INPUTS = 4


def packing(a: IntegerFormat, b: IntegerFormat) -> tuple[int, int]:
    """How many products n one multiplier makes, and the bits s of a field: ``(n, s)``.

    With x = Σ a[i]·2**(i·s) and y = Σ b[i]·2**((n−1−i)·s), the digit of x·y in front of 2**((n−1)·s) is
    Σ a[i]·b[i]: a dot product of n, which is what an element sums up anyway. No field runs into the next one
    if s bits hold, with its sign, any sum of n products: then what lies below the digit is less than half of
    its unit, and borrows at most 1, which its own sign tells. n is the largest for which x and y fit the
    multiplier.
    """
    best = 1, accumulated(a, b, 1)
    for n in range(2, MULTIPLIER_BITS):
        s = accumulated(a, b, n)
        if all(packed_bits(fmt, n, s) <= MULTIPLIER_BITS for fmt in (a, b)):
            best = n, s
    return best


def accumulated(a: IntegerFormat, b: IntegerFormat, n: int) -> int:
    """Bits that hold any sum of n products, with its sign."""
    return (n * largest_product(a, b)).bit_length() + 1


def packed_bits(fmt: IntegerFormat, n: int, s: int) -> int:
    """Bits of n values of `fmt`, s bits apart, as one signed number: negative ones borrow from above."""
    ones = sum(1 << (i * s) for i in range(n))
    return max((fmt.highest * ones).bit_length(), (-fmt.lowest * ones - 1).bit_length()) + 1


def value_of(code: Value, fmt: IntegerFormat) -> Value:
    """The number that a code means: 2s + 1 of odd levels, s the code with its top bit inverted."""
    if fmt.levels is Levels.UNSIGNED:
        return code.as_unsigned()
    if fmt.levels is Levels.SIGNED:
        return code.as_signed()
    return Cat(1, code[:-1], ~code[-1]).as_signed()


class Entry(wiring.Component):
    """What stands at the array's left and upper edge: codes side by side, as the element takes them.

    Parameters
    ----------
    fmt
        Of the codes.
    layout
        What the element takes.
    n, s, reverse
        How many codes one multiplier takes, the bits from one to the next, and whether the first is the
        highest; n = 1 and s = 0 in LUTs.

    ====== === ===============================================================================================
    code   in  the codes, the first lowest
    number out in LUTs: the same. For multipliers: what each of them takes of n codes, packed as `packing` has
               it, the first code lowest or, if `reverse`, highest
    ====== === ===============================================================================================
    """

    def __init__(self, fmt: IntegerFormat, layout: data.ArrayLayout, n: int, s: int, reverse: bool) -> None:
        self.format, self.n, self.s, self.reverse = fmt, n, s, reverse
        super().__init__({"code": In(fmt.bits * n * layout.length), "number": Out(layout)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for i, number in enumerate(self.number):
            codes = [self.code.word_select(i * self.n + j, self.format.bits) for j in range(self.n)]
            if self.n * self.s == 0:
                m.d.comb += number.eq(codes[0])
                continue
            values = [value_of(code, self.format) for code in (reversed(codes) if self.reverse else codes)]
            m.d.comb += number.eq(sum(value << (j * self.s) for j, value in enumerate(values)))
        return m


class Total(wiring.Component):
    """What stands at the foot of a column: a sum is its own code.

    ====== === ====================================
    number in  the sum
    code   out the same bits
    ====== === ====================================
    """

    def __init__(self, width: int) -> None:
        super().__init__({"number": In(signed(width)), "code": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.code.eq(self.number)
        return m


class IntegerPE(ProcessingElement):
    """Products of several k a cycle, added up in a tree and accumulated exactly.

    Parameters
    ----------
    arithmetic
        Formats and the accumulator's width.
    stages
        Cycles from an operand to the sum, 2 … 7: a register before the products, the sum; from 3 on,
        registers behind the products or between levels of the tree.
    group
        How many k it takes at once; left out, `GROUP` in LUTs, and in multipliers what one of them makes.
    in_dsp
        Whether the products are made in the FPGA's multipliers, `packing` of them in each. Left out: where
        the operands are wider than `LARGEST_IN_LOGIC`.

    Attributes
    ----------
    interleave
        1: it works on one output.
    latency
        Cycles from an operand at `a` to its sum in the total register: `stages`.
    packed
        Products that one multiplier makes; 0 in LUTs.
    port_notes
        What `a` and `b` are of the codes, in words.

    Ports and timing are every `ProcessingElement`'s, with L = N = 1; there is one fold an output, and `first`
    says nothing. After a fold in cycle t, `shift` may be 1 up to the cycle of the next fold.
    """

    def __init__(
        self, arithmetic: Integer, *, stages: int = 4, group: int | None = None, in_dsp: bool | None = None
    ) -> None:
        if not 2 <= as_integer(stages, "stages") <= 7:
            raise ValueError(f"stages is {stages}, but an integer processing element has 2 to 7")
        self.arithmetic, self.stages = arithmetic, stages
        a, b = arithmetic.a, arithmetic.b
        if in_dsp is None:
            in_dsp = max(a.bits, b.bits) > LARGEST_IN_LOGIC
        self.packed, self.field = packing(a, b) if in_dsp else (0, 0)
        together = max(self.packed, 1)
        group = group or (self.packed if in_dsp else GROUP)
        if group < 1 or group % together or group > MULTIPLIER_BITS:
            raise ValueError(
                f"group is {group}, but an element takes a multiple of {together} products at once, up to "
                f"{MULTIPLIER_BITS}"
            )
        self.multipliers = group // together
        shapes = [
            signed(packed_bits(fmt, together, self.field)) if in_dsp else unsigned(fmt.bits) for fmt in (a, b)
        ]
        super().__init__(
            arithmetic,
            a=data.ArrayLayout(shapes[0], self.multipliers),
            b=data.ArrayLayout(shapes[1], self.multipliers),
            total=signed(arithmetic.accumulator_bits),
            interleave=1,
            latency=stages,
            group=group,
            multiplies_in_dsp=in_dsp,
            one_fold=True,
        )
        said = {"control": "`first` is not looked at here"}
        said |= {"a": "here the codes of successive k", "b": "here likewise"}
        if together == 1 and in_dsp:
            said["a"] = "here the numbers that the codes of successive k mean"
        elif in_dsp:
            value = "v(i) the number that the i-th of their codes means"
            said["a"] = f"here of {together} successive k the sum of v(i) << {self.field}·i, {value}"
            said["b"] = f"here likewise the sum of v(i) << {self.field}·({together - 1} − i)"
        self.port_notes = said

    def entry_a(self) -> Entry:
        """The codes, or a multiplier's operand of them."""
        return self._entry(self.arithmetic.a, self.a.shape(), reverse=False)

    def entry_b(self) -> Entry:
        """The codes, or a multiplier's operand of them, the first highest."""
        return self._entry(self.arithmetic.b, self.b.shape(), reverse=True)

    def _entry(self, fmt: IntegerFormat, layout: data.ArrayLayout, reverse: bool) -> Entry:
        return Entry(fmt, layout, max(self.packed, 1), self.field, reverse)

    def exit(self) -> Total:
        """The total, as it is."""
        return Total(self.arithmetic.accumulator_bits)

    @shared_module("arithmetic", "stages", "group", "packed")
    def elaborate(self, platform: object) -> Module:
        m = Module()
        control, a, b = pass_on(
            m, (self.control, self.control_out), (self.a, self.a_out), (self.b, self.b_out)
        )
        terms = [self._product(x, y) for x, y in zip(a, b, strict=True)]
        n, fold = max(self.packed, 1), control.fold
        levels = len(terms).bit_length() - (len(terms) & (len(terms) - 1) == 0)  # of the tree
        registers = self.stages - 2
        # Behind which levels registers stand, behind the products (0) or the tree (`levels`): evenly, the
        # last behind the tree.
        places = [-(-(i + 1) * (levels + 1) // registers) - 1 for i in range(registers)]
        for level in range(levels + 1):
            if level:
                n *= 2
                pairs = [terms[i : i + 2] for i in range(0, len(terms), 2)]
                terms = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
            for i in range(places.count(level)):
                name = f"{level}_{i}"
                bits = min(len(terms[0]), accumulated(self.arithmetic.a, self.arithmetic.b, n))
                behind = [
                    Signal(signed(bits), name=f"sum_{name}_{j}", reset_less=True) for j in range(len(terms))
                ]
                m.d.sync += [after.eq(term) for after, term in zip(behind, terms, strict=True)]
                folds = Signal(name=f"fold_{name}", reset_less=True)
                m.d.sync += folds.eq(fold)
                terms, fold = behind, folds
        (term,) = terms
        partial = Signal(self.chain_out.shape(), reset_less=True)
        total = Signal(self.chain_out.shape(), reset_less=True)
        m.d.sync += partial.eq(partial + term)
        with m.If(fold):
            m.d.sync += [partial.eq(0), total.eq(partial)]
        with m.Elif(self.shift):
            m.d.sync += total.eq(self.chain_in)
        m.d.comb += self.chain_out.eq(total)
        return m

    def _product(self, x: Value, y: Value) -> Value:
        """One product, or the digit of a multiplier's product that is a sum of several."""
        if not self.packed:
            return self._in_luts(x, y)
        product = x * y
        if self.packed == 1:
            return product
        below = (self.packed - 1) * self.field
        digit = product[below : below + self.field].as_signed()
        return digit + product[below - 1]  # what lies below is negative: it has borrowed 1

    def _in_luts(self, x: Value, y: Value) -> Value:
        """A product of two codes. Of four bits in all, each of its bits is one LUT4: as a table, because
        synthesis would make adders of a product, at more than twice the size. All are signed, as sums are."""
        a, b = self.arithmetic.a, self.arithmetic.b
        if (inputs := a.bits + b.bits) > LUT_INPUTS:
            product = value_of(x, a) * value_of(y, b)
            return product if product.shape().signed else Cat(product, Const(0, 1)).as_signed()
        pairs = np.arange(1 << inputs, dtype=np.uint8)
        products = a.integers(pairs & ((1 << a.bits) - 1)) * b.integers(pairs >> a.bits)
        tables = (products[:, None] >> np.arange(accumulated(a, b, 1))) & 1
        bits = [sum(int(bit) << i for i, bit in enumerate(column)) for column in tables.T]
        return Cat(Const(table, 1 << inputs).bit_select(Cat(x, y), 1) for table in bits).as_signed()
