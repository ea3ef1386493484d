"""The sum of two small floats, rounded once."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from golden.formats import FloatFormat
from golden.rounding import RANDOM_BITS
from golden.rounding import Rounding as RoundingMode
from rtl.rounding import Rounding
from rtl.unpacked import Pack, Unpack, Unpacked, leading_zeros, registered

#: Where the adder is cut for a number of inner registers: after which steps.
CUTS: dict[int, tuple[str, ...]] = {
    0: (),
    1: ("align",),
    2: ("swap", "add"),
    3: ("swap", "align", "count"),
    4: ("swap", "align", "add", "count"),
    5: ("swap", "align", "add", "count", "normalise"),
    6: ("compare", "swap", "align", "add", "count", "normalise"),
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
        its smallest exponent; where it is not, the addend must be a multiple of the augend's quantum, so that
        a sum below the smallest normal number of `fmt` is exact.
    rounding, random_bits
        Nearest even or stochastic.
    registers
        Registers inside, 0 … 6: the latency in cycles. Initiation interval 1.

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
        if self.rounding is RoundingMode.TOWARD_ZERO:
            raise ValueError("rounding is truncate, but an adder rounds to nearest or stochastically")
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
        elif addend.quantum_exponent < augend.min_exponent:
            raise ValueError(
                f"the addend has multiples of 2**{addend.quantum_exponent}, but the augend has no number "
                f"below 2**{augend.min_exponent}; take a gradual augend"
            )
        if registers not in CUTS:
            raise ValueError(f"{registers} registers in the adder, but it has 0 to {max(CUTS)}")
        self.format, self.augend, self.addend = fmt, augend, addend
        self.random_bits, self.registers = random_bits, registers
        ports = {"a": In(augend.layout), "b": In(addend.layout), "sum": Out(augend.layout)}
        if self.rounding is RoundingMode.STOCHASTIC:
            ports["random"] = In(random_bits)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt, augend, addend = self.format, self.augend, self.addend
        cuts = CUTS[self.registers]
        stochastic = self.rounding is RoundingMode.STOCHASTIC
        p = fmt.precision
        operand_bits = max(p, addend.precision)
        # Below the larger operand's leading bit: far apart, one bit of normalisation and what the rounding
        # looks at; close together, every bit of the smaller. What lies deeper is one sticky bit.
        window = max(operand_bits + 1, p + (self.random_bits + 1 if stochastic else 2))

        def wire(value: Value, name: str) -> Signal:
            signal = Signal(value.shape(), name=name)
            m.d.comb += signal.eq(value)
            return signal

        a, b = self.a, self.b
        # Exponents on one scale, with infinity above every number so that it decides the sign. A zero
        # is below all, or it would push the other operand out of the window.
        bias = max(augend.bias, addend.bias)
        exponent_bits = (max(augend.max_exponent, addend.max_exponent) + bias).bit_length()
        a_exponent = wire(on_scale(a.exponent, bias - augend.bias, exponent_bits, a.infinite), "a_exponent")
        b_exponent = wire(on_scale(b.exponent, bias - addend.bias, exponent_bits, b.infinite), "b_exponent")
        if addend.min_exponent > augend.min_exponent:
            b_exponent = wire(Mux(b.significand[-1] | b.infinite, b_exponent, 0), "b_exponent_or_0")
        lowest = bias + augend.min_exponent
        nan = wire(a.nan | b.nan | (a.infinite & b.infinite & (a.sign ^ b.sign)), "either_nan")
        infinite = wire(a.infinite | b.infinite, "either_infinite")
        random = self.random if stochastic else Const(0, 0)

        # compare
        difference = wire(a_exponent - b_exponent, "difference")
        a_significand = Cat(Const(0, operand_bits - p), a.significand)
        b_significand = Cat(Const(0, operand_bits - addend.precision), b.significand)
        a_sign, b_sign = a.sign, b.sign
        (
            difference,
            a_exponent,
            b_exponent,
            a_significand,
            b_significand,
            a_sign,
            b_sign,
            nan,
            infinite,
            random,
        ) = registered(
            m,
            "compare" in cuts,
            difference,
            a_exponent,
            b_exponent,
            a_significand,
            b_significand,
            a_sign,
            b_sign,
            nan,
            infinite,
            random,
        )

        # swap: the distance of a smaller a is −difference = ~difference + 1; the 1 is a wire in the swap.
        swap = difference[-1]
        big = wire(Mux(swap, b_significand, a_significand), "big")
        small = wire(Mux(swap, Cat(a_significand, Const(0, 1)), Cat(Const(0, 1), b_significand)), "small")
        exponent = wire(Mux(swap, b_exponent, a_exponent)[:exponent_bits], "exponent")
        distance = wire(difference[:-1] ^ swap.replicate(len(difference) - 1), "distance")
        sign = wire(Mux(swap, b_sign, a_sign), "big_sign")
        subtract = wire(a_sign ^ b_sign, "subtract")
        big, small, exponent, distance, sign, subtract, nan, infinite, random = registered(
            m, "swap" in cuts, big, small, exponent, distance, sign, subtract, nan, infinite, random
        )

        # align
        aligned = Cat(Const(0, window - operand_bits), small)  # one bit below the window, for the swapped
        sticky: Value = Const(0, 1)
        levels = min(len(distance), window.bit_length())
        for level in range(levels):
            step = 1 << level
            lost = aligned[:step].any()
            sticky = wire(sticky | (distance[level] & lost), f"sticky_{level}")
            aligned = wire(
                Mux(distance[level], Cat(aligned[step:], Const(0, min(step, len(aligned)))), aligned)[
                    : window + 1
                ],
                f"aligned_{level}",
            )
        far = wire(distance[levels:].any(), "far")
        sticky = wire(Mux(far, small.any(), sticky | aligned[0]), "sticky")
        aligned = wire(Mux(far, 0, aligned[1:]), "aligned")
        big, aligned, sticky, exponent, sign, subtract, nan, infinite, random = registered(
            m, "align" in cuts, big, aligned, sticky, exponent, sign, subtract, nan, infinite, random
        )

        # add: a carry above the window, the sticky bit below it
        width = window + 2
        left = Cat(Const(0, 1 + window - operand_bits), big, Const(0, 1))
        right = Cat(sticky, aligned, Const(0, 1))
        raw = wire((left + (right ^ subtract.replicate(width)) + subtract)[: width + 1], "raw")
        negative = wire(subtract & ~raw[width], "negative")
        total = wire((raw[:width] ^ negative.replicate(width)) + negative, "total")[:width]
        total, negative, exponent, sign, subtract, nan, infinite, random = registered(
            m, "add" in cuts, total, negative, exponent, sign, subtract, nan, infinite, random
        )

        # count
        zero = wire(~total.any(), "zero")
        count = wire(leading_zeros(m, total), "count")
        if augend.gradual:
            room = wire(
                (exponent - (lowest - 1))[:exponent_bits], "room"
            )  # exponent steps down to the smallest
            count = wire(Mux(count > room, room, count)[: len(count)], "limited")
        sign = wire(Mux(subtract & zero, 0, sign ^ negative), "sum_sign")
        total, count, exponent, sign, nan, infinite, random = registered(
            m, "count" in cuts, total, count, exponent, sign, nan, infinite, random
        )

        # normalise
        normal = wire((total << count)[:width], "normal")
        exponent = wire((exponent + 1 - count)[: exponent_bits + 1], "normal_exponent")
        normal, exponent, sign, nan, infinite, random = registered(
            m, "normalise" in cuts, normal, exponent, sign, nan, infinite, random
        )

        # round: a carry out of the mantissa runs into the exponent
        m.submodules.round = rounding = Rounding(width, width - p, self.rounding, self.random_bits)
        m.d.comb += rounding.magnitude.eq(normal)
        if stochastic:
            m.d.comb += rounding.random.eq(random)
        leading = normal[-1]
        bottom = Mux(leading, exponent, lowest)
        packed = wire(
            (Cat(rounding.magnitude[width - p :], bottom) + rounding.up)[: p + exponent_bits + 1], "packed"
        )
        significand = wire(Cat(packed[: p - 1], packed[p - 1] | leading), "rounded_significand")
        exponent = packed[p:]
        mantissa_max = (fmt.max_code & ((1 << fmt.mantissa_bits) - 1)) + (1 << fmt.mantissa_bits)
        exponent_max = fmt.max_exponent + bias
        over = wire(Cat(significand, exponent) > (exponent_max << p | mantissa_max), "over")
        result = self.sum
        m.d.comb += [
            result.significand.eq(significand),
            result.exponent.eq(exponent - (bias - augend.bias)),
            result.sign.eq(sign),
            result.nan.eq(nan),
        ]
        if fmt.saturate:
            with m.If(over | infinite):
                m.d.comb += result.significand.eq(mantissa_max)
                m.d.comb += result.exponent.eq(fmt.max_exponent + augend.bias)
        elif fmt.infinity_code is None:
            m.d.comb += result.nan.eq(nan | over | infinite)
        else:
            m.d.comb += result.infinite.eq(over | infinite)
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
        To nearest even, or stochastic with that many random bits, as `golden.exact.encode` defines.
    stages
        0: combinational. N: N registers, the last at the output; up to 7.
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
        if not 0 <= stages <= max(CUTS) + 1:
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
        self.rounding, self.random_bits = self.add.rounding, random_bits
        ports = {"a": In(fmt.width), "b": In(b_shape), "sum": Out(fmt.width)}
        if self.rounding is RoundingMode.STOCHASTIC:
            ports["random"] = In(random_bits)
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
        if self.rounding is RoundingMode.STOCHASTIC:
            m.d.comb += add.random.eq(self.random)
        m.d.comb += pack.number.eq(add.sum)
        (code,) = registered(m, self.stages > 0, pack.code)
        m.d.comb += self.sum.eq(code)
        return m
