"""Floats as the datapaths carry them: fields apart, specials as flags, the leading bit in sight."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import inf, nan

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.exact import Exact
from quaver.golden.formats import FloatFormat, Specials


@dataclass(frozen=True)
class Unpacked:
    """A float of any width in separate fields: what it holds and how its bits lie.

    The value is (−1)**sign · significand · 2**(exponent − bias − precision + 1); `infinite` and `nan`
    overrule it (where one is set, significand and exponent mean nothing, but that an infinity which is not
    gradual has a leading 1; for `nan`, nor does the sign).
    The significand's top bit is 1 in every number of at least 2**min_exponent. The fields from bit 0 up:
    significand, exponent, sign, infinite, nan.

    Parameters
    ----------
    precision
        Bits of the significand, the leading one included.
    min_exponent, max_exponent
        Exponents of the smallest and the largest normalised number.
    gradual
        Whether there are numbers below 2**min_exponent; they have min_exponent and a leading 0. Otherwise
        zero is the only one.
    """

    precision: int
    min_exponent: int
    max_exponent: int
    gradual: bool = False

    @classmethod
    def of(cls, fmt: FloatFormat) -> Unpacked:
        """The fields of `fmt` as they are: subnormals keep their leading 0. ValueError: a DLFloat."""
        _refuse_dlfloat(fmt)
        return cls(fmt.precision, fmt.min_exponent, fmt.max_exponent, gradual=True)

    @classmethod
    def normalised(cls, fmt: FloatFormat) -> Unpacked:
        """The numbers of `fmt`, each with leading bit 1: exponents reach down to its quantum. ValueError: a
        DLFloat."""
        _refuse_dlfloat(fmt)
        return cls(fmt.precision, fmt.quantum_exponent, fmt.max_exponent)

    @property
    def bias(self) -> int:
        """Field minus exponent; the smallest exponent is field 1 where gradual (as in IEEE 754), else 0."""
        return self.gradual - self.min_exponent

    @property
    def quantum_exponent(self) -> int:
        """Every number is a multiple of 2**quantum_exponent."""
        return self.min_exponent - (self.precision - 1 if self.gradual else 0)

    @property
    def exponent_bits(self) -> int:
        """Width of the exponent field."""
        return (self.max_exponent + self.bias).bit_length()

    @property
    def layout(self) -> data.StructLayout:
        """How the fields lie."""
        return data.StructLayout(
            {
                "significand": self.precision,
                "exponent": self.exponent_bits,
                "sign": 1,
                "infinite": 1,
                "nan": 1,
            }
        )

    @property
    def zero(self) -> dict[str, int]:
        """+0, as an initial value."""
        return {"exponent": int(self.gradual)}

    def decode(self, bits: int) -> Exact:
        """The exact value of `bits` as `layout` lays them: the definition."""
        fields = self.layout.from_bits(bits)
        sign = -1 if fields.sign else 1
        if fields.nan:
            return nan
        if fields.infinite:
            return sign * inf
        if not fields.significand:
            return sign * 0.0
        return sign * fields.significand * Fraction(2) ** (fields.exponent - self.bias - self.precision + 1)


def quantum_of_sums(fmt: FloatFormat, addend: Unpacked) -> int:
    """The exponent of what every sum that begins at 0 is a multiple of: the addends' quantum, unless sums
    saturate at a largest value that is no multiple of it."""
    largest = fmt.max_exponent - fmt.mantissa_bits
    return min(addend.quantum_exponent, largest) if fmt.saturate else addend.quantum_exponent


def fold_of(fmt: FloatFormat, sums: Unpacked) -> tuple[Unpacked, Unpacked]:
    """How totals of `fmt` are laid, and how numbers laid as `sums` are to be laid that are added to them:
    as they are, or with their subnormals normalised (`Normalise`) where those are normal in `fmt`."""
    total, addend = Unpacked.of(fmt), sums
    if sums.gradual and sums.min_exponent > total.min_exponent:
        addend = Unpacked(sums.precision, sums.quantum_exponent, sums.max_exponent)
    quantum = quantum_of_sums(fmt, addend)
    if not addend.gradual and total.quantum_exponent <= quantum <= total.max_exponent:
        total = Unpacked(fmt.precision, quantum, fmt.max_exponent)
    return total, addend


def _refuse_dlfloat(fmt: FloatFormat) -> None:
    if fmt.specials is Specials.DLFLOAT:
        raise ValueError(
            f"the format is {fmt}, DLFloat, but the hardware has subnormals and takes ties to even; take fp16"
        )


def leading_zeros(m: Module, bits: Value) -> Value:
    """Number of zeros above the top 1 of `bits`; of no use where `bits` is 0. Combinational, a tree."""
    if len(bits) <= 1:
        return Const(0, 0)
    half = 1 << ((len(bits) - 1).bit_length() - 1)  # a power of two, so that the halves' counts concatenate
    top, rest = bits[-half:], Cat(Const(1, 2 * half - len(bits)), bits[:-half])
    empty = Signal()
    m.d.comb += empty.eq(~top.any())
    return Cat(Mux(empty, leading_zeros(m, rest), leading_zeros(m, top)), empty)


class Unpack(wiring.Component):
    """Takes a code apart. Combinational.

    Parameters
    ----------
    fmt
        The code's format.
    normalise
        Shift subnormals up (`Unpacked.normalised`) or leave them as they are (`Unpacked.of`).

    ======== === ==================================
    code     in  of `fmt`
    number   out laid as `unpacked.layout` says
    ======== === ==================================
    """

    def __init__(self, fmt: FloatFormat, *, normalise: bool) -> None:
        self.format = fmt
        self.unpacked = Unpacked.normalised(fmt) if normalise else Unpacked.of(fmt)
        super().__init__({"code": In(fmt.width), "number": Out(self.unpacked.layout)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt, number = self.format, self.number
        mantissa = self.code[: fmt.mantissa_bits]
        exponent = self.code[fmt.mantissa_bits : -1]
        magnitude = self.code[:-1]
        normal = Signal()
        m.d.comb += [
            normal.eq(exponent.any()),
            number.sign.eq(self.code[-1]),
        ]
        if fmt.infinity_code is None:
            m.d.comb += number.nan.eq(magnitude.all())
        else:
            m.d.comb += number.infinite.eq(exponent.all() & ~mantissa.any())
            m.d.comb += number.nan.eq(exponent.all() & mantissa.any())
        if self.unpacked.gradual:
            m.d.comb += number.significand.eq(Cat(mantissa, normal))
            m.d.comb += number.exponent.eq(Cat(exponent[0] | ~normal, exponent[1:]))
        else:
            count = Signal(range(fmt.mantissa_bits))
            m.d.comb += count.eq(leading_zeros(m, mantissa))
            with m.If(normal):
                m.d.comb += number.significand.eq(Cat(mantissa, Const(1, 1)))
                m.d.comb += number.exponent.eq(exponent + (fmt.mantissa_bits - 1))
            with m.Elif(mantissa.any()):
                m.d.comb += number.significand.eq((mantissa << 1) << count)
                m.d.comb += number.exponent.eq((fmt.mantissa_bits - 1) - count)
        return m


class Normalise(wiring.Component):
    """Shifts subnormals up until their leading bit is 1. Combinational.

    Parameters
    ----------
    unpacked
        What comes in, gradual.

    ====== === ==============================================================
    number in  laid as `unpacked.layout` says
    normal out laid as `normalised.layout` says: exponents down to the quantum
    ====== === ==============================================================
    """

    def __init__(self, unpacked: Unpacked) -> None:
        self.unpacked = unpacked
        self.normalised = Unpacked(unpacked.precision, unpacked.quantum_exponent, unpacked.max_exponent)
        super().__init__({"number": In(unpacked.layout), "normal": Out(self.normalised.layout)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        number, normal = self.number, self.normal
        top = self.unpacked.precision - 1
        count = Signal(range(self.unpacked.precision))
        exponent = number.exponent + (self.normalised.bias - self.unpacked.bias) - count
        m.d.comb += [
            count.eq(leading_zeros(m, number.significand)),
            # An infinity has a leading 1 too: the adder counts on it.
            normal.significand.eq((number.significand << count) | (number.infinite << top)),
            normal.exponent.eq(Mux(number.significand.any(), exponent, 0)),
            normal.sign.eq(number.sign),
            normal.infinite.eq(number.infinite),
            normal.nan.eq(number.nan),
        ]
        return m


class Pack(wiring.Component):
    """Puts a number together again, which must be one of `fmt`: nothing is rounded here. Combinational.

    ======== === ==================================
    number   in  laid as `unpacked.layout` says
    code     out of `fmt`; NaN is the canonical one
    ======== === ==================================
    """

    def __init__(self, unpacked: Unpacked, fmt: FloatFormat) -> None:
        if unpacked.precision != fmt.precision:
            raise ValueError(
                f"numbers have {unpacked.precision} significant bits, but those of {fmt} have {fmt.precision}"
            )
        self.unpacked = unpacked
        self.format = fmt
        super().__init__({"number": In(unpacked.layout), "code": Out(fmt.width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fmt, number = self.format, self.number
        significand, exponent = number.significand, number.exponent
        lowest = fmt.min_exponent + self.unpacked.bias  # the field that becomes exponent code 1
        normal, mantissa = significand[-1], significand[:-1]
        if lowest > self.unpacked.gradual:  # or no number of `fmt` has a smaller field
            normal &= exponent >= lowest
            below = Signal(range(lowest + 1))
            m.d.comb += below.eq(Mux(exponent < lowest, lowest - exponent, 0))
            mantissa = (significand >> below)[:-1]
        packed_exponent = Signal(fmt.exponent_bits)
        m.d.comb += packed_exponent.eq(Mux(normal, exponent - (lowest - 1), 0))
        infinity = fmt.nan_code if fmt.infinity_code is None else fmt.infinity_code
        with m.If(number.nan):
            m.d.comb += self.code.eq(fmt.nan_code)
        with m.Elif(number.infinite):
            signed = 0 if fmt.infinity_code is None else number.sign
            m.d.comb += self.code.eq(Cat(Const(infinity, fmt.width - 1), signed))
        with m.Else():
            m.d.comb += self.code.eq(Cat(mantissa, packed_exponent, number.sign))
        return m
