"""The reset of a board: held until the clock has been good for a while."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out


class HeldReset(wiring.Component):
    """A reset for domain sync, whose clock runs before it ends; its own registers have none.

    Parameters
    ----------
    cycles
        How long `good` must have been set.

    Ports
    -----
    good : in
        The clock can be relied on, and nobody holds a button. Not synchronised to the clock.
    reset : out
        Set from the beginning, and again 3 cycles after `good` is not; it ends `cycles` + 3 cycles after
        `good` is.
    """

    def __init__(self, cycles: int):
        self.cycles = cycles
        super().__init__({"good": In(1), "reset": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        good = Signal()
        running = Signal(reset_less=True)
        waited = Signal(range(self.cycles + 1), reset_less=True)
        m.submodules.good = FFSynchronizer(self.good, good)
        over = waited == self.cycles
        with m.If(~good):
            m.d.sync += waited.eq(0)
        with m.Elif(~over):
            m.d.sync += waited.eq(waited + 1)
        # Registers that begin with 0, which every family has.
        m.d.sync += running.eq(good & over)
        m.d.comb += self.reset.eq(~running)
        return m
