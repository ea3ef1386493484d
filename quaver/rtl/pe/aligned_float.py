"""The processing element of `quaver.golden.arithmetic.aligned_float`: a fused dot product of a group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.arithmetic.aligned_float import AlignedFloat
from quaver.golden.formats import FloatFormat
from quaver.golden.rounding import Rounding as RoundingMode
from quaver.golden.validation import as_integer
from quaver.rtl.emit.shared_modules import shared_module
from quaver.rtl.float.adder import UnpackedAdder
from quaver.rtl.float.unpacked import Normalise, Pack, Unpack, Unpacked, fold_of, leading_zeros
from quaver.rtl.pe.chunked_float import LARGEST_IN_LOGIC
from quaver.rtl.pe.element import ProcessingElement
from quaver.rtl.pe.pass_on import pass_on
from quaver.rtl.pipeline import Pipeline
from quaver.rtl.rounding import Rounding

#: Where the fused sum is cut for a number of lanes: after which steps, beside the register at its end.
CUTS: dict[int, tuple[str, ...]] = {
    1: (),
    2: ("add",),
    3: ("align", "add"),
    4: ("align", "add", "count"),
    5: ("align", "add", "negate", "count"),
    6: ("compare", "align", "add", "negate", "count"),
    7: ("compare", "align", "compress", "add", "negate", "count"),
}

#: Exponents of which one register keeps the largest.
COMPARED = 4


def largest(m: Module, values: Sequence[Value]) -> Value:
    """The largest of unsigned values, by a tree."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    a, b = largest(m, values[:half]), largest(m, values[half:])
    found = Signal(max(len(a), len(b)))
    m.d.comb += found.eq(Mux(a > b, a, b))
    return found


def carry_save(m: Module, terms: Sequence[Value], ones: Sequence[Value], width: int) -> tuple[Value, Value]:
    """Two numbers of `width` bits whose sum is that of `terms` and of the bits `ones`, modulo 2**width.

    3 terms become 2, without carries that run. The carries leave bit 0 free for one of `ones` each time,
    which are at most as many as the terms less 2.
    """
    terms, ones = list(terms), list(ones)
    while len(terms) > 2:
        rest = terms[len(terms) // 3 * 3 :]
        for a, b, c in zip(*[iter(terms[: len(terms) // 3 * 3])] * 3, strict=True):
            saved = Signal(width)
            carried = Signal(width)
            one = ones.pop() if ones else Const(0, 1)
            m.d.comb += [saved.eq(a ^ b ^ c), carried.eq(Cat(one, (a & b) | (a & c) | (b & c)))]
            rest += [saved, carried]
        terms = rest
    return terms[0], terms[1]


class Entry(wiring.Component):
    """Takes the codes of a group apart. Combinational.

    ====== === ===================================================
    code   in  `group` codes, the first lowest
    number out as many numbers, their subnormals with a leading 0
    ====== === ===================================================
    """

    def __init__(self, fmt: FloatFormat, group: int) -> None:
        self.format, self.group = fmt, group
        layout = data.ArrayLayout(Unpacked.of(fmt).layout, group)
        super().__init__({"code": In(fmt.width * group), "number": Out(layout)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for i in range(self.group):
            m.submodules[f"unpack_{i}"] = unpack = Unpack(self.format, normalise=False)
            m.d.comb += [
                unpack.code.eq(self.code.word_select(i, self.format.width)),
                self.number[i].eq(unpack.number),
            ]
        return m


class AlignedFloatPE(ProcessingElement):
    """`group` products and the running sum, added at once, every cycle; `interleave` outputs in turn.

    Products, their largest exponent; then in the loop the alignment of every term, one tree of carry-save
    adders, one addition, one normalisation. Totals have an adder of their own.

    Parameters
    ----------
    arithmetic
        Formats, group, fraction bits, chunk; terms are truncated.
    stages
        Registers L in the loop, 1 … 7: as many lanes.

    Attributes
    ----------
    interleave
        Lanes L.
    comparisons
        Cycles D in which the group's largest exponent is found: its logarithm to the base 4, at least 1.
    latency
        L + 2 + D + W.
    sum, total
        The `Unpacked` of partial sums and totals.
    waits
        W, cycles that a partial sum takes on its way to the total: 1 where its subnormals are normalised.

    Ports and timing are every `ProcessingElement`'s, with N = 1 and `group` k at once: all inputs of cycle t
    belong to lane t mod L. Between two groups of folds lies at least one product a lane, and between a
    group's first cycle t and t + 2L + D + W + 1 `shift` is 0.

    Raises
    ------
    ValueError
        `stages` out of range, terms that are aligned to nearest, totals that are truncated, or a DLFloat.
    """

    def __init__(self, arithmetic: AlignedFloat, *, stages: int = 4) -> None:
        if as_integer(stages, "stages") not in CUTS:
            raise ValueError(f"stages is {stages}, but an aligned processing element has 1 to {max(CUTS)}")
        if arithmetic.aligning is not RoundingMode.TOWARD_ZERO:
            raise ValueError(
                f"aligning is {arithmetic.aligning}, but the hardware truncates terms; take truncate"
            )
        if arithmetic.total_rounding is not RoundingMode.NEAREST_EVEN:
            raise ValueError(
                f"total_rounding is {arithmetic.total_rounding}, but the hardware adds totals to nearest"
            )
        self.arithmetic = arithmetic
        self.comparisons = max(-(-(arithmetic.group - 1).bit_length() // 2), 1)
        acc = arithmetic.accumulator
        self.operands = Unpacked.of(arithmetic.a), Unpacked.of(arithmetic.b)
        self.lowest = sum(operand.min_exponent for operand in self.operands)
        self.sum = Unpacked.of(acc)
        if acc.min_exponent <= self.lowest - arithmetic.fraction_bits <= acc.max_exponent:
            # Sums are multiples of that, and none is subnormal. Above the largest exponent all overflow.
            self.sum = Unpacked(acc.precision, self.lowest - arithmetic.fraction_bits, acc.max_exponent)
        self.total, self.folded = fold_of(arithmetic.total, self.sum)
        self.waits = int(self.folded != self.sum)
        super().__init__(
            arithmetic,
            a=data.ArrayLayout(self.operands[0].layout, arithmetic.group),
            b=data.ArrayLayout(self.operands[1].layout, arithmetic.group),
            total=self.total.layout,
            interleave=stages,
            latency=stages + 2 + self.comparisons + self.waits,
            group=arithmetic.group,
            multiplies_in_dsp=max(operand.precision for operand in self.operands) > LARGEST_IN_LOGIC,
        )

    def entry_a(self) -> Entry:
        """The operands of a group, unpacked."""
        return Entry(self.arithmetic.a, self.group)

    def entry_b(self) -> Entry:
        """The operands of a group, unpacked."""
        return Entry(self.arithmetic.b, self.group)

    def exit(self) -> Pack:
        """The total, packed."""
        return Pack(self.total, self.arithmetic.total)

    @shared_module("arithmetic", "interleave")
    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.interleave
        control, a, b = pass_on(
            m, (self.control, self.control_out), (self.a, self.a_out), (self.b, self.b_out)
        )

        # Exponents on one scale, that of the sums where none of theirs, not even a zero's, is above a
        # product's; a product that is zero has 0.
        bias = self.sum.bias if self.sum.min_exponent <= self.lowest else 1 - self.lowest
        highest = max(sum(operand.max_exponent for operand in self.operands), self.sum.max_exponent)
        exponent_bits = (highest + 2 + bias + self.group.bit_length()).bit_length()
        terms, exponents, nans, plus, minus = [], [], [], [], []
        for i in range(self.group):
            x, y = a[i], b[i]
            product = Signal(sum(operand.precision for operand in self.operands), name=f"product_{i}")
            exponent = Signal(exponent_bits, name=f"exponent_{i}", reset_less=True)
            magnitude = Signal.like(product, name=f"magnitude_{i}", reset_less=True)
            sign, nan, infinite = (Signal(name=f"{n}_{i}", reset_less=True) for n in ("sign", "nan", "inf"))
            x_zero, y_zero = ~x.significand.any(), ~y.significand.any()
            offset = bias - sum(operand.bias for operand in self.operands)
            m.d.comb += product.eq(x.significand * y.significand)
            m.d.sync += [
                magnitude.eq(product),
                exponent.eq(Mux(x_zero | y_zero, 0, x.exponent + y.exponent + offset)),
                sign.eq(x.sign ^ y.sign),
                nan.eq(x.nan | y.nan | (x.infinite & y_zero) | (y.infinite & x_zero)),
                infinite.eq(x.infinite | y.infinite),
            ]
            terms.append([magnitude, exponent, sign])
            exponents.append(exponent)
            nans.append(nan)
            plus.append(infinite & ~sign)
            minus.append(infinite & sign)

        # Their largest exponent, four to one in each cycle, and specials, of all; products wait.
        for level in range(self.comparisons):
            tops = []
            for i in range(0, len(exponents), COMPARED):
                top = Signal(exponent_bits, name=f"top_{level}_{i // COMPARED}", reset_less=True)
                m.d.sync += top.eq(largest(m, exponents[i : i + COMPARED]))
                tops.append(top)
            exponents = tops
            flags = [Signal(name=f"{n}_{level}", reset_less=True) for n in ("nan", "above", "below")]
            for flag, of in zip(flags, (nans, plus, minus), strict=True):
                m.d.sync += flag.eq(Cat(of).any())
            nans, plus, minus = ([flag] for flag in flags)
            for i, parts in enumerate(terms):
                terms[i] = [Signal.like(part, name=f"{part.name}_{level}", reset_less=True) for part in parts]
                m.d.sync += [later.eq(part) for later, part in zip(terms[i], parts, strict=True)]
        (top,), (nan,), (above,), (below,) = exponents, nans, plus, minus

        # Bit i: what is i registers behind the products' own is a fold, and an output's first.
        last = self.comparisons - 1
        folds = Signal(last + lanes + 2, reset_less=True)
        firsts = Signal(last + 2, reset_less=True)
        m.d.sync += [folds.eq(Cat(control.fold, folds)), firsts.eq(Cat(control.first, firsts))]
        pops, folded, first_fold = folds[last + self.waits], folds[last + lanes], firsts[last + self.waits]
        complete = folds[last + lanes + self.waits]

        partial = Signal(self.sum.layout, init=self.sum.zero, reset_less=True)
        new = self._fused(m, bias, terms, top, (nan, above, below), partial)
        m.d.sync += partial.eq(Mux(folded, self.sum.layout.const(self.sum.zero).as_value(), new.as_value()))

        # What is added to the totals; with a register before it where its subnormals are normalised.
        addend: data.View = partial
        if self.waits:
            m.submodules.normalise = normalise = Normalise(self.sum)
            addend = Signal(self.folded.layout, name="addend", reset_less=True)
            m.d.comb += normalise.number.eq(partial)
            m.d.sync += addend.eq(normalise.normal)

        # The totals: a ring through their adder while folding, a chain down the column while shifting.
        totals = [
            Signal(self.total.layout, init=self.total.zero, name=f"total_{i}", reset_less=True)
            for i in range(lanes)
        ]
        m.submodules.fold = folder = UnpackedAdder(
            self.arithmetic.total, self.total, self.folded, registers=lanes - 1
        )
        augend = Signal(self.total.layout, init=self.total.zero, reset_less=True)
        zero = self.total.layout.const(self.total.zero).as_value()
        m.d.sync += augend.eq(Mux(first_fold, zero, totals[-1].as_value()))
        m.d.comb += [folder.a.eq(augend), folder.b.eq(addend)]
        with m.If(pops | complete | self.shift):
            m.d.sync += totals[0].eq(Mux(complete, folder.sum.as_value(), self.chain_in.as_value()))
            m.d.sync += [later.eq(earlier) for earlier, later in pairwise(totals)]
        m.d.comb += self.chain_out.eq(totals[-1])
        return m

    def _fused(
        self,
        m: Module,
        bias: int,
        products: Sequence[Sequence[Signal]],
        top: Signal,
        specials: tuple[Signal, Signal, Signal],
        partial: data.View,
    ) -> data.View:
        """The new sum, of products (magnitude, exponent, sign) and the sum before."""
        acc, F = self.arithmetic.accumulator, self.arithmetic.fraction_bits
        sum_ = self.sum
        pipe = Pipeline(m, CUTS[self.interleave])
        own = Signal(len(top))
        if bias == sum_.bias:
            m.d.comb += own.eq(partial.exponent)
        else:
            m.d.comb += own.eq(Mux(partial.significand.any(), partial.exponent + (bias - sum_.bias), 0))
        nan, above, below = specials
        pipe.nan = nan | partial.nan | (above & below) | (partial.infinite & Mux(partial.sign, above, below))
        pipe.infinite = above | below | partial.infinite
        pipe.negative_infinity = below | (partial.infinite & partial.sign)
        pipe.exponent = Mux(own > top, own, top)
        point = sum(operand.precision - 1 for operand in self.operands)  # bits of a product behind its point
        names = []
        for i, (magnitude, exponent, sign) in enumerate(
            [*products, (partial.significand, own, partial.sign)]
        ):
            behind = point if i < len(products) else sum_.precision - 1
            names.append(i)
            setattr(pipe, f"magnitude_{i}", Cat(Const(0, max(F - behind, 0)), magnitude))
            setattr(pipe, f"sign_{i}", sign)
            setattr(pipe, f"distance_{i}", (pipe.exponent - exponent + max(behind - F, 0))[: len(top)])
        pipe.step("compare")

        # Each term cut at 2**(e − F), then its negation as ~x and a 1 that is added with the others.
        width = F + 2 + (len(products) + 1).bit_length() + 1
        signed = []
        for i in names:
            magnitude, distance = getattr(pipe, f"magnitude_{i}"), getattr(pipe, f"distance_{i}")
            levels = min(len(magnitude).bit_length(), len(distance))
            kept = Mux(distance[levels:].any(), 0, magnitude >> distance[:levels])[: F + 2]
            setattr(pipe, f"term_{i}", kept)
            delattr(pipe, f"magnitude_{i}")
            delattr(pipe, f"distance_{i}")
        pipe.step("align")
        for i in names:
            sign, kept = getattr(pipe, f"sign_{i}"), getattr(pipe, f"term_{i}")
            signed.append((Cat(kept, Const(0, width - len(kept))) ^ sign.replicate(width))[:width])
        first, *ones = (getattr(pipe, f"sign_{i}") for i in names)
        terms = [*signed, Cat(first, Const(0, width - 1))]
        pipe.saved, pipe.carried = carry_save(m, terms, ones, width)
        for i in names:
            delattr(pipe, f"sign_{i}")
            delattr(pipe, f"term_{i}")
        pipe.step("compress")
        pipe.total = (pipe.saved + pipe.carried)[:width]
        pipe.step("add", "saved", "carried")

        # Normalise: the leading 1 to the top, but no further than the smallest exponent.
        pipe.sign = pipe.total[-1]
        pipe.magnitude = ((pipe.total ^ pipe.sign.replicate(width)) + pipe.sign)[: width - 1]
        # An exponent of the top bit; where sums are not gradual, none that is not 0 falls below the smallest.
        pipe.exponent = (pipe.exponent + (width - 2 - F))[: len(top)]
        pipe.step("negate", "total")
        pipe.zero = ~pipe.magnitude.any()
        counted, least = pipe.magnitude, sum_.min_exponent + bias
        if sum_.gradual:
            room = (pipe.exponent - least)[: len(top)]
            counted |= (Const(1 << (width - 2), width - 1) >> room)[: width - 1]  # there the count ends
        pipe.shift = leading_zeros(m, counted)
        if sum_.gradual and self.lowest + width - 2 - F < sum_.min_exponent:
            # Or the other way: a sum far below the smallest exponent goes down to it, and its lost bits
            # stick.
            under = Signal()
            deep = Signal(len(top))
            m.d.comb += [under.eq(pipe.exponent < least), deep.eq(least - pipe.exponent)]
            levels = (width - 1).bit_length()
            down = Signal(width - 1)
            with m.If(~deep[levels:].any()):
                m.d.comb += down.eq(pipe.magnitude >> deep[:levels])
            lost = Mux(deep[levels:].any(), ~pipe.zero, ((down << deep[:levels]) != pipe.magnitude))
            pipe.shift = Mux(under, 0, pipe.shift)
            pipe.magnitude = Mux(under, down | lost, pipe.magnitude)
            pipe.exponent = Mux(under, least, pipe.exponent)
        pipe.step("count")
        pipe.normal = (pipe.magnitude << pipe.shift)[: width - 1]
        pipe.exponent = (pipe.exponent - pipe.shift)[: len(top)]
        pipe.step("normalise", "magnitude", "shift")

        rounding = Rounding(
            max(width - 1, acc.precision), max(width - 1 - acc.precision, 0), self.arithmetic.rounding
        )
        m.submodules.round = rounding
        m.d.comb += rounding.magnitude.eq(Cat(Const(0, max(acc.precision - width + 1, 0)), pipe.normal))
        carry = rounding.rounded[-1]
        significand = Mux(carry, rounding.rounded[1:], rounding.rounded[:-1])
        exponent = Signal(len(top) + 1)
        m.d.comb += exponent.eq(pipe.exponent + carry)
        over = (exponent > acc.max_exponent + bias) & ~pipe.zero
        new = Signal(sum_.layout)
        special = pipe.nan | pipe.infinite
        field = (exponent - (bias - sum_.bias))[: sum_.exponent_bits]
        m.d.comb += [
            # What infinities' significands add up to may be 0: one needs its leading 1.
            new.significand.eq(Mux(pipe.zero, 0, significand) | (pipe.infinite << (acc.precision - 1))),
            new.exponent.eq(Mux(~significand.any() | pipe.zero, int(sum_.gradual), field)),
            new.sign.eq(Mux(special, pipe.negative_infinity, pipe.sign & significand.any())),
            new.infinite.eq(pipe.infinite | over),
            new.nan.eq(pipe.nan),
        ]
        return new
