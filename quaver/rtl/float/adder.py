"""The sum of two small floats, rounded once."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.formats import FloatFormat, Specials
from quaver.golden.rounding import NEAREST_OR_DRAWN, RANDOM_BITS
from quaver.golden.rounding import Rounding as RoundingMode
from quaver.golden.validation import as_integer
from quaver.rtl.float.unpacked import Pack, Unpack, Unpacked, leading_zeros
from quaver.rtl.pipeline import Pipeline
from quaver.rtl.rounding import Rounding

#: Where the adder is cut for a number of inner registers: after which steps.
CUTS: dict[int, tuple[str, ...]] = {
    0: (),
    1: ("align",),
    2: ("align_1", "add"),
    3: ("align_1", "add", "normalise_1"),
    4: ("swap", "align", "add", "normalise_1"),
    5: ("swap", "align", "add", "normalise_2", "normalise"),
    6: ("compare", "swap", "align", "add", "normalise_2", "normalise"),
    7: ("compare", "swap", "align", "add", "normalise_2", "normalise", "round"),
    8: ("compare", "swap", "align", "add", "count", "normalise_2", "normalise", "round"),
}


def on_scale(exponent: Value, offset: int, bits: int, infinite: Value) -> Value:
    """An exponent field plus a constant in `bits` bits, and infinity above them."""
    field = (exponent + offset)[:bits] if offset else exponent
    return Cat(field, Const(0, bits - len(field)), infinite)


class UnpackedAdder(wiring.Component):
    """Sum of two unpacked numbers, rounded once; the sum is of the augend's kind.

    One path: compare, swap, align, add, count leading zeros, normalise, round.

    Parameters
    ----------
    fmt
        Format of augend and sum: how many bits are kept, and what happens on overflow.
    augend, addend
        How the operands are laid. Where the augend is gradual, the addend must be normalised down to at least
        its smallest exponent. Where it is not, neither may the addend be, which must be a multiple of the
        augend's quantum, so that a sum below the smallest normal number of `fmt` is exact.
    rounding, random_bits
        Nearest even or stochastic, of whichever variant.
    registers
        Registers inside, 0 … 8: the latency in cycles. Initiation interval 1.

    ========= === ======================================================================
    a         in  augend, laid as `augend.layout` says
    b         in  addend, laid as `addend.layout` says
    random    in  `random_bits` bits that belong to a and b; only where stochastic
    sum       out laid as `augend.layout` says
    ========= === ======================================================================
    """

    def __init__(
        self,
        fmt: FloatFormat,
        augend: Unpacked,
        addend: Unpacked,
        *,
        rounding: RoundingMode | str = RoundingMode.NEAREST_EVEN,
        random_bits: int = RANDOM_BITS,
        registers: int = 0,
    ) -> None:
        self.rounding = RoundingMode(rounding)
        random_bits = as_integer(random_bits, "random_bits")
        if not 1 <= random_bits <= 32:
            raise ValueError(f"random_bits is {random_bits}, but stochastic rounding takes 1 … 32")
        if self.rounding not in NEAREST_OR_DRAWN:
            raise ValueError(f"rounding is {self.rounding}, but an adder rounds to nearest or stochastically")
        if augend.precision != fmt.precision:
            raise ValueError(
                f"the augend has {augend.precision} significant bits, but {fmt} has {fmt.precision}"
            )
        if augend.gradual:
            if addend.gradual and addend.min_exponent > augend.min_exponent:
                raise ValueError(
                    f"the addend is normalised down to 2**{addend.min_exponent} only, but the augend reaches "
                    f"2**{augend.min_exponent}; normalise the addend"
                )
        elif addend.gradual:
            raise ValueError("the addend is gradual, but the augend is not; normalise the addend")
        elif addend.quantum_exponent < augend.min_exponent:
            raise ValueError(
                f"the addend has multiples of 2**{addend.quantum_exponent}, but the augend has no number "
                f"below 2**{augend.min_exponent}; take a gradual augend"
            )
        if as_integer(registers, "registers") not in CUTS:
            raise ValueError(f"{registers} registers in the adder, but it has 0 to {max(CUTS)}")
        self.format, self.augend, self.addend = fmt, augend, addend
        self.random_bits, self.registers = random_bits, registers
        ports = {"a": In(augend.layout), "b": In(addend.layout), "sum": Out(augend.layout)}
        if self.rounding.draws:
            ports["random"] = In(self.random_bits)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt, augend, addend = self.format, self.augend, self.addend
        stochastic = self.rounding.draws
        p = fmt.precision
        operand_bits = max(p, addend.precision)
        # Below the larger operand's leading bit: far apart, one bit of normalisation and what the rounding
        # looks at; close together, every bit of the smaller. What lies deeper is one sticky bit.
        looked_at = self.random_bits + self.rounding.looks_further if stochastic else 1
        window = max(operand_bits + 1, p + looked_at + 1)

        # A negative difference that is exact, as p bits hold it, may be inverted, filled with ones below and
        # rounded up: cheaper than −x = ~x + 1, and equal to it only where every dropped bit of −x is 0.
        # It is negative where `small`, with the lower exponent or the same, is the larger after all. Then
        # - `big` has a leading 1: so has `small`, at no distance. Both are multiples of their last bit, and
        #   their difference is shorter: exact if the addend is no wider than the sum.
        # - `big` has none: it is an augend at its lowest exponent, for an addend without a leading 1 is never
        #   above that. `small` lies any distance below, and a gradual sum ends at the augend's quantum: exact
        #   if every addend is a multiple of it. Where the augend is not gradual, `big` is 0, there is nothing
        #   below its exponent, and the difference is `small` itself.
        inverts = operand_bits == p and (
            not augend.gradual or addend.quantum_exponent >= augend.quantum_exponent
        )

        # Exponents on one scale, with infinity above every number so that it decides the sign. A zero
        # is below all, or it would push the other operand out of the window.
        a, b = self.a, self.b
        pipe = Pipeline(m, CUTS[self.registers])
        bias = max(augend.bias, addend.bias)
        exponent_bits = (max(augend.max_exponent, addend.max_exponent) + bias).bit_length()
        lowest = bias + augend.min_exponent
        pipe.a_exponent = on_scale(a.exponent, bias - augend.bias, exponent_bits, a.infinite)
        pipe.b_exponent = on_scale(b.exponent, bias - addend.bias, exponent_bits, b.infinite)
        if addend.min_exponent > augend.min_exponent:
            pipe.b_exponent = Mux(b.significand[-1] | b.infinite, pipe.b_exponent, 0)
        pipe.a_significand = Cat(Const(0, operand_bits - p), a.significand)
        pipe.b_significand = Cat(Const(0, operand_bits - addend.precision), b.significand)
        pipe.a_sign, pipe.b_sign = a.sign, b.sign
        pipe.nan = a.nan | b.nan | (a.infinite & b.infinite & (a.sign ^ b.sign))
        pipe.infinite = a.infinite | b.infinite
        pipe.random = self.random if stochastic else Const(0, 0)

        pipe.difference = pipe.a_exponent - pipe.b_exponent
        pipe.step("compare")

        # The distance of a smaller a is −difference = ~difference + 1; the 1 is a wire.
        pipe.swap = pipe.difference[-1]
        pipe.big = Mux(pipe.swap, pipe.b_significand, pipe.a_significand)
        shifted, whole = Cat(pipe.a_significand, Const(0, 1)), Cat(Const(0, 1), pipe.b_significand)
        pipe.small = Mux(pipe.swap, shifted, whole)
        pipe.exponent = Mux(pipe.swap, pipe.b_exponent, pipe.a_exponent)[:exponent_bits]
        pipe.sign = Mux(pipe.swap, pipe.b_sign, pipe.a_sign)
        pipe.subtract = pipe.a_sign ^ pipe.b_sign
        pipe.difference = pipe.difference[:-1]
        pipe.step("swap", "a_exponent", "b_exponent", "a_significand", "b_significand", "a_sign", "b_sign")

        # Shift the smaller by 1, 2, 4, …, with one bit more below the window, for the swapped. A distance to
        # be inverted is inverted in each multiplexer, at no cost in LUTs.
        levels = min(window.bit_length(), len(pipe.difference))
        pipe.far = (pipe.difference[levels:] ^ pipe.swap.replicate(len(pipe.difference) - levels)).any()
        pipe.sticky = pipe.far & (pipe.small.any() if augend.gradual else pipe.small[-1] | pipe.small[-2])
        pipe.small = Cat(Const(0, window - operand_bits), pipe.small)
        for level in range(levels):
            by = pipe.difference[level] ^ pipe.swap
            pipe.sticky = pipe.sticky | (by & pipe.small[: 1 << level].any())
            pipe.small = Mux(by, pipe.small >> (1 << level), pipe.small)
            pipe.step(f"align_{level}")
        pipe.sticky = pipe.sticky | pipe.small[0]
        pipe.small = Mux(pipe.far, 0, pipe.small[1:])
        pipe.step("align", "difference", "swap", "far")

        # A carry above the window, the sticky bit below it.
        width = window + 2
        left = Cat(Const(0, 1 + window - operand_bits), pipe.big, Const(0, 1))
        right = Cat(pipe.sticky, pipe.small, Const(0, 1)) ^ pipe.subtract.replicate(width)
        pipe.difference = (left + right + pipe.subtract)[: width + 1]
        pipe.negative = pipe.subtract & ~pipe.difference[-1]
        pipe.total = pipe.difference[:-1] ^ pipe.negative.replicate(width)
        if not inverts:
            pipe.total = (pipe.total + pipe.negative)[:width]
        # What is left of the significand of an infinite sum may have no leading 1 where it is gradual, and
        # then be less than what is added to it: that turns no sign.
        turns = pipe.negative & ~pipe.infinite if augend.gradual else pipe.negative
        pipe.sign = pipe.sign ^ turns
        pipe.step("add", "big", "small", "sticky", "difference")

        # Shift the leading 1 to the top. What comes in below is 0, inverted like the rest.
        levels = (width - 1).bit_length()
        if augend.gradual:
            room = (pipe.exponent - (lowest - 1))[:exponent_bits]  # steps down to the smallest exponent
            zeros = leading_zeros(m, pipe.total)
            pipe.cancels = pipe.subtract & ~pipe.total.any() & ~pipe.infinite
            pipe.limit = Mux(zeros > room, room, zeros)[:levels]
            pipe.step("count")
        pipe.count = Const(0, 0)
        for level in reversed(range(levels)):
            by = pipe.limit[level] if augend.gradual else ~pipe.total[-(1 << level) :].any()
            fill = (pipe.negative if inverts else Const(0, 1)).replicate(1 << level)
            pipe.count = Cat(by, pipe.count)
            pipe.total = Mux(by, Cat(fill, pipe.total)[:width], pipe.total)
            pipe.step(f"normalise_{level}")
        pipe.exponent = (pipe.exponent + 1 - pipe.count)[: exponent_bits + 1]
        pipe.step("normalise", "count")

        # A carry out of the significand runs into the exponent.
        m.submodules.round = rounding = Rounding(width, width - p, self.rounding, self.random_bits)
        m.d.comb += rounding.magnitude.eq(pipe.total)
        if stochastic:
            rounds_up = pipe.negative.replicate(self.random_bits) if inverts else 0
            m.d.comb += rounding.random.eq(pipe.random | rounds_up)
        pipe.leading = pipe.total[-1]
        exponent = Mux(pipe.leading, pipe.exponent, lowest) if augend.gradual else pipe.exponent
        pipe.rounded = (Cat(pipe.total[-p:], exponent) + rounding.up)[: p + exponent_bits + 1]
        pipe.step("round", "total", "exponent", "random")
        leading = pipe.leading
        significand = Cat(pipe.rounded[: p - 1], pipe.rounded[p - 1] | leading)
        exponent = pipe.rounded[p:]
        mantissa_max = fmt.max_code & ((1 << fmt.mantissa_bits) - 1) | 1 << fmt.mantissa_bits
        if fmt.specials is Specials.IEEE:
            over = exponent > fmt.max_exponent + bias
        else:
            over = Cat(significand, exponent) > (fmt.max_exponent + bias) << p | mantissa_max
        result = self.sum
        m.d.comb += [
            result.significand.eq(significand),
            result.nan.eq(pipe.nan),
        ]
        if augend.gradual:
            m.d.comb += result.exponent.eq(exponent - (bias - augend.bias))
            m.d.comb += result.sign.eq(pipe.sign & ~pipe.cancels)
        else:  # a leading 0 is zero, and zero's exponent the smallest
            over &= leading
            m.d.comb += result.exponent.eq(Mux(leading, exponent, 0))
            m.d.comb += result.sign.eq(pipe.sign & (leading | ~pipe.subtract))
        if fmt.saturate:
            with m.If(over | pipe.infinite):
                m.d.comb += result.significand.eq(mantissa_max)
                m.d.comb += result.exponent.eq(fmt.max_exponent + augend.bias)
        elif fmt.infinity_code is None:
            m.d.comb += result.nan.eq(pipe.nan | over | pipe.infinite)
        else:
            m.d.comb += result.infinite.eq(over | pipe.infinite)
        return m


class FloatAdder(wiring.Component):
    """Sum of two floats, rounded once into the format of the first.

    Parameters
    ----------
    fmt
        Format of `a` and of `sum`. Its `saturate` and specials say what overflow becomes.
    addend
        Format of `b`, or the `Unpacked` of an exact product (`FloatMultiplier.unpacked`); `fmt` if left out.
    rounding, random_bits
        To nearest even, or stochastic with that many random bits, as `quaver.golden.exact.encode` defines.
    stages
        0: combinational. N: N registers, the last at the output; up to 9.
        Latency is `stages` cycles, the initiation interval 1.

    ========= === =====================================================================
    a         in  code of `fmt`
    b         in  code of `addend`, or laid as ``addend.layout`` says
    random    in  `random_bits` bits for this sum; only where `rounding` is stochastic
    sum       out code of `fmt`
    ========= === =====================================================================
    """

    def __init__(
        self,
        fmt: FloatFormat,
        addend: FloatFormat | Unpacked | None = None,
        *,
        rounding: RoundingMode | str = RoundingMode.NEAREST_EVEN,
        random_bits: int = RANDOM_BITS,
        stages: int = 0,
    ) -> None:
        if not 0 <= as_integer(stages, "stages") <= max(CUTS) + 1:
            raise ValueError(f"stages is {stages}, but the adder has 0 to {max(CUTS) + 1}")
        addend = fmt if addend is None else addend
        self.format, self.addend, self.stages = fmt, addend, stages
        augend = Unpacked.of(fmt)
        if isinstance(addend, Unpacked):
            unpacked, b_shape = addend, addend.layout
        else:
            self.normalise = addend.min_exponent > fmt.min_exponent
            unpacked = Unpacked.normalised(addend) if self.normalise else Unpacked.of(addend)
            b_shape = addend.width
        self.add = UnpackedAdder(
            fmt, augend, unpacked, rounding=rounding, random_bits=random_bits, registers=max(stages - 1, 0)
        )
        self.rounding, self.random_bits = self.add.rounding, self.add.random_bits
        ports = {"a": In(fmt.width), "b": In(b_shape), "sum": Out(fmt.width)}
        if self.rounding.draws:
            ports["random"] = In(self.random_bits)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unpack_a = unpack_a = Unpack(self.format, normalise=False)
        m.submodules.add = add = self.add
        m.submodules.pack = pack = Pack(add.augend, self.format)
        m.d.comb += unpack_a.code.eq(self.a)
        m.d.comb += add.a.eq(unpack_a.number)
        if isinstance(self.addend, Unpacked):
            m.d.comb += add.b.eq(self.b)
        else:
            m.submodules.unpack_b = unpack_b = Unpack(self.addend, normalise=self.normalise)
            m.d.comb += unpack_b.code.eq(self.b)
            m.d.comb += add.b.eq(unpack_b.number)
        if self.rounding.draws:
            m.d.comb += add.random.eq(self.random)
        m.d.comb += pack.number.eq(add.sum)
        pipe = Pipeline(m, ("output",) if self.stages else ())
        pipe.sum = pack.code
        pipe.step("output")
        m.d.comb += self.sum.eq(pipe.sum)
        return m
