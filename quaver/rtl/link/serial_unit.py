"""A unit on two pins: the UART, the link, and the unit behind it. This is what a board holds."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from quaver.rtl.link.reliable_link import Linked, Unit
from quaver.rtl.link.uart import UART, divisor_for


class SerialUnit(wiring.Component):
    """A unit behind a serial line, 8N1.

    Parameters
    ----------
    unit
        As of `quaver.rtl.link.reliable_link.Linked`; an accelerator.
    clock_hz, baud
        In Hz.
    buffer
        As of `quaver.rtl.link.reliable_link.ReliableLink`.

    == === ===================================================================================================
    rx in  from the host; not synchronised to the clock; high when idle
    tx out to the host
    == === ===================================================================================================

    Raises
    ------
    ValueError
        A baud rate that the clock does not make.
    """

    def __init__(self, unit: Unit, *, clock_hz: float, baud: float = 3_000_000, buffer: int = 512):
        self.uart, self.linked = UART(divisor_for(clock_hz, baud)), Linked(unit, buffer)
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.uart = uart = self.uart
        m.submodules.linked = linked = self.linked
        m.d.comb += [uart.rx.eq(self.rx), self.tx.eq(uart.tx)]
        connect(m, uart.received, linked.received)
        connect(m, linked.sent, uart.sent)
        return m
