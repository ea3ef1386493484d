"""The random source: the twin of `quaver.golden.lfsr.LFSR`."""

from __future__ import annotations

from functools import reduce
from operator import xor

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden import lfsr
from quaver.golden.lfsr import TAPS
from quaver.golden.validation import as_integer


class LFSR(wiring.Component):
    """A 32-bit maximal-length LFSR that leaps one draw forward at a time.

    Parameters
    ----------
    bits
        Bits of a draw, 1 … 32.
    taps
        As in `quaver.golden.lfsr.LFSR`.
    seed
        The state after reset.

    ======== === ==========================================================================
    enable   in  take the draw: `draw` is the next one in the next cycle
    load     in  the state becomes `seed`; overrules `enable`
    seed     in  32 bits, not zero
    draw     out the next draw, `bits` bits; what `quaver.golden.lfsr.LFSR(seed).draw(bits)` returns
    ======== === ==========================================================================

    The first draw stands at `draw` in the cycle after `load` (or reset); a draw every cycle.
    """

    def __init__(self, bits: int, taps: tuple[int, ...] = TAPS, seed: int = 1) -> None:
        bits = as_integer(bits, "bits")
        if not 1 <= bits <= 32:
            raise ValueError(f"a draw of {bits} bits, but a draw takes 1 … 32")
        lfsr.LFSR(seed, taps)  # refuses a zero seed
        self.bits, self.taps, self.initial_seed = bits, taps, seed
        super().__init__({"enable": In(1), "load": In(1), "seed": In(32), "draw": Out(bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        state = Signal(32, init=self.initial_seed)
        history = [state[i] for i in range(32)]  # newest first
        for _ in range(self.bits):
            history.insert(0, reduce(xor, (history[tap - 1] for tap in self.taps)))
        following = Cat(history[:32])
        m.d.comb += self.draw.eq(following[: self.bits])
        with m.If(self.load):
            m.d.sync += state.eq(self.seed)
        with m.Elif(self.enable):
            m.d.sync += state.eq(following)
        return m


def leap(state: Value, steps: int, taps: tuple[int, ...] = TAPS) -> Value:
    """The LFSR's 32 bits `steps` steps after `state`, before it where negative: exclusive-ors alone."""
    bits = [1 << i for i in range(32)]  # which bits of `state` each bit is the exclusive-or of
    for _ in range(steps):
        bits = [reduce(xor, (bits[tap - 1] for tap in taps)), *bits[:-1]]
    for _ in range(-steps):
        oldest = reduce(xor, (bits[tap] for tap in taps if tap < 32), bits[0])
        bits = [*bits[1:], oldest]
    return Cat(reduce(xor, (state[i] for i in range(32) if mask >> i & 1)) for mask in bits)
