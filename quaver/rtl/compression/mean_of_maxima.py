"""The exact mean of magnitudes, rounded once: the twin of golden's `compression.adacomp.mean_of_maxima`."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from quaver.golden.formats import FP32
from quaver.golden.validation import as_integer

#: A magnitude is a float32 without its sign, finite.
Magnitude = data.StructLayout({"mantissa": FP32.mantissa_bits, "exponent": FP32.exponent_bits})
_LARGEST_FIELD = (1 << FP32.exponent_bits) - 2


class MeanOfMaxima(wiring.Component):
    """The mean of a run of float32 magnitudes, exact inside and rounded once to nearest even.

    Their significands are summed up by the exponent, in a small memory. At the end of a run the sums are
    folded into one long integer, from its lowest bit up, which is divided by the number of magnitudes, from
    its highest bit down: a bit a cycle each.

    Parameters
    ----------
    count_bits
        A run has at most 2**count_bits − 1 magnitudes, and at least one.

    ========= === ===============================================================================
    maxima    in  stream: `magnitude`, and `last` with the last one of a run
    mean      out stream of 32 bits: the float32, one for each run
    ========= === ===============================================================================

    A magnitude takes two cycles; the mean comes 2 · (277 + `count_bits`) + 6 cycles after the last one. A
    reset, which may cut a run short, is followed by 256 cycles in which the memory is cleared.

    Raises
    ------
    ValueError
        There are not 1 … 32 bits of count.
    """

    def __init__(self, count_bits: int = 24) -> None:
        if not 1 <= as_integer(count_bits, "count_bits") <= 32:
            raise ValueError(f"count_bits is {count_bits}, but a run's length has 1 to 32 bits")
        self.count_bits = count_bits
        maxima = data.StructLayout({"magnitude": Magnitude, "last": 1})
        super().__init__({"maxima": In(stream.Signature(maxima)), "mean": Out(stream.Signature(32))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = FP32.precision + self.count_bits  # of one exponent's sum, and of all sums' at one exponent
        length = _LARGEST_FIELD - 1 + width  # of the integer, in units of float32's quantum
        m.submodules.sums = sums = Memory(shape=width, depth=_LARGEST_FIELD + 2, init=[])
        sum_write = sums.write_port()
        sum_read = sums.read_port()
        m.submodules.bits = bits = Memory(shape=1, depth=length, init=[])
        bit_write = bits.write_port()
        bit_read = bits.read_port()

        magnitude = self.maxima.payload.magnitude
        count = Signal(self.count_bits)
        place = Signal(range(-1, length + 1))
        total = Signal(width)
        twice = Signal(self.count_bits + 1)
        digit = Signal()
        # What a run sets before it is looked at needs no reset.
        field = Signal(FP32.exponent_bits, reset_less=True)
        significand = Signal(FP32.precision, reset_less=True)
        last = Signal(reset_less=True)
        carry = Signal(width, reset_less=True)
        rest = Signal(self.count_bits, reset_less=True)
        quotient = Signal(FP32.precision, reset_less=True)
        exponent = Signal(FP32.exponent_bits, reset_less=True)
        half = Signal(reset_less=True)
        halved = Signal(reset_less=True)
        sticky = Signal(reset_less=True)
        full = quotient[-1]

        m.d.comb += [
            sum_read.en.eq(1),
            bit_read.en.eq(1),
            sum_read.addr.eq(magnitude.exponent),
            total.eq(carry + sum_read.data),
            bit_write.data.eq(total[0]),
            bit_write.addr.eq(place - 1),
            twice.eq(Cat(bit_read.data & (place >= 0), rest)),
            digit.eq(twice >= count),
        ]
        with m.FSM():
            with m.State("CLEAR"):
                m.d.comb += [sum_write.addr.eq(place), sum_write.en.eq(1)]
                m.d.sync += place.eq(place + 1)
                with m.If(place == sums.depth - 1):
                    m.next = "TAKE"
            with m.State("TAKE"):
                m.d.comb += self.maxima.ready.eq(1)
                m.d.sync += [
                    field.eq(magnitude.exponent),
                    significand.eq(Cat(magnitude.mantissa, magnitude.exponent.any())),
                    last.eq(self.maxima.payload.last),
                ]
                with m.If(self.maxima.valid):
                    m.d.sync += count.eq(count + 1)
                    m.next = "ADD"
            with m.State("ADD"):
                m.d.comb += [
                    sum_write.addr.eq(field),
                    sum_write.data.eq(sum_read.data + significand),
                    sum_write.en.eq(1),
                ]
                m.d.sync += [place.eq(0), carry.eq(0)]
                m.next = "TAKE"
                with m.If(last):
                    m.next = "BEGIN"
            with m.State("BEGIN"):  # the last sum has been written
                m.d.comb += sum_read.addr.eq(0)
                m.next = "FOLD"
            with m.State("FOLD"):  # `place` is the exponent field, whose sum has been read
                m.d.comb += [
                    sum_read.addr.eq(place + 1),
                    sum_write.addr.eq(place),
                    sum_write.en.eq(1),  # with zero, for the next run
                    bit_write.en.eq(place != 0),
                ]
                # Fields 0 and 1 have the same weight.
                m.d.sync += [carry.eq(Mux(place == 0, total, total >> 1)), place.eq(place + 1)]
                with m.If(place == _LARGEST_FIELD):
                    m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += [total.eq(carry), bit_write.en.eq(1), bit_read.addr.eq(length - 1)]
                m.d.sync += [carry.eq(total >> 1), place.eq(place + 1)]
                with m.If(place == length):
                    m.d.sync += place.eq(length - 1)
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += bit_read.addr.eq(length - 1)
                m.d.sync += [rest.eq(0), quotient.eq(0), halved.eq(0), sticky.eq(0)]
                m.next = "DIVIDE"
            with m.State("DIVIDE"):  # `place` is that of the bit which has been read; below the lowest, −1
                m.d.comb += bit_read.addr.eq(place - 1)
                m.d.sync += [place.eq(place - 1), rest.eq(Mux(digit, twice - count, twice))]
                with m.If(~full & (place >= 0)):
                    m.d.sync += [quotient.eq(Cat(digit, quotient)), exponent.eq(place + 1)]
                with m.Elif(~halved):
                    m.d.sync += [half.eq(digit), halved.eq(1)]
                with m.Else():
                    m.d.sync += sticky.eq(sticky | digit)
                with m.If(place < 0):
                    m.next = "GIVE"
            with m.State("GIVE"):
                up = half & (sticky | rest.any() | quotient[0])
                packed = Cat(quotient[:-1], Mux(full, exponent, 0))
                m.d.comb += [self.mean.payload.eq(Cat(packed, Const(0, 1)) + up), self.mean.valid.eq(1)]
                m.d.sync += count.eq(0)
                with m.If(self.mean.ready):
                    m.next = "TAKE"
        return m
