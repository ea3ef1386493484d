"""The unit of `quaver.golden.requantisation`: an exact sum becomes the next layer's code."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden.requantisation import MAX_SHIFT, MULTIPLIER_BITS, OFFSET_BITS
from quaver.golden.validation import as_integer


class RequantisationUnit(wiring.Component):
    """clip(round((number · multiplier + offset) / 2**shift), 0, 2**bits − 1), ties to even; one a cycle.

    Parameters
    ----------
    width
        Bits of a sum, its sign among them, at most 32.
    bits
        Of a code, 1 … 8.

    Attributes
    ----------
    latency
        Cycles from a number to its code: 4, for the product, the sum, the shift, and rounding and clip.

    ========== === ========================================================
    number     in  the sum, signed
    multiplier in  signed; with the number
    offset     in  signed; with the number
    shift      in  0 … 47; it stays the same while numbers come
    code       out 4 cycles later, of a number that may come in every cycle
    ========== === ========================================================
    """

    latency = 4

    def __init__(self, width: int, bits: int) -> None:
        width, bits = as_integer(width, "width"), as_integer(bits, "bits")
        if not 2 <= width <= 32:
            raise ValueError(f"width is {width}, but sums have 2 to 32 bits")
        if not 1 <= bits <= 8:
            raise ValueError(f"bits is {bits}, but codes have 1 to 8")
        self.width, self.bits = width, bits
        super().__init__(
            {
                "number": In(signed(width)),
                "multiplier": In(signed(MULTIPLIER_BITS)),
                "offset": In(signed(OFFSET_BITS)),
                "shift": In(range(MAX_SHIFT + 1)),
                "code": Out(bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product = Signal(signed(self.width + MULTIPLIER_BITS), reset_less=True)
        offset = Signal(signed(OFFSET_BITS), reset_less=True)
        total = Signal(signed(max(len(product), OFFSET_BITS) + 1), reset_less=True)
        m.d.sync += [
            product.eq(self.number * self.multiplier),
            offset.eq(self.offset),
            total.eq(product + offset),
        ]
        # One bit more than is kept decides the rounding; of those below it, whether any is set.
        doubled = Cat(Const(0, 1), total).as_signed()
        kept = Signal(signed(len(doubled)), reset_less=True)
        sticky = Signal(reset_less=True)
        below = (Const(1, 1) << self.shift) - 1
        m.d.sync += [kept.eq(doubled >> self.shift), sticky.eq((doubled & below).any())]
        whole = kept[1:].as_signed()
        rounded = Signal(signed(len(whole) + 1))
        m.d.comb += rounded.eq(whole + (kept[0] & (sticky | kept[1])))
        code = Signal(self.bits, reset_less=True)
        over = rounded[self.bits : -1].any()
        m.d.sync += code.eq(Mux(rounded < 0, 0, Mux(over, (1 << self.bits) - 1, rounded[: self.bits])))
        m.d.comb += self.code.eq(code)
        return m
