"""UART: a start bit, eight data bits with the lowest first, no parity, a stop bit."""

from __future__ import annotations

from math import ceil

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out, connect, flipped

#: How far the baud rate may be off the host's. It would be 5 %, half a bit in ten, were its edges not seen up
#: to a cycle late: with four cycles in a bit 2.5 % remain.
MAX_ERROR = 0.02
#: Cycles of a bit below which its middle is not found well enough.
MIN_DIVISOR = 4
#: What serial ports are used for.
MIN_BAUD, MAX_BAUD = 9_600, 3_000_000


def divisor_for(clock: float, baud: float) -> int:
    """Clock cycles of a bit, from the clock and the baud rate, both in Hz.

    Raises
    ------
    ValueError
        A baud rate below 9,600 or beyond 3 Mbaud, or one that whole cycles of the clock miss by more than
        2 %.
    """
    if not MIN_BAUD <= baud <= MAX_BAUD:
        raise ValueError(f"the baud rate is {baud:,.0f}, but the link takes {MIN_BAUD:,} to {MAX_BAUD:,}")
    divisor = round(clock / baud)
    if divisor < MIN_DIVISOR:
        raise ValueError(
            f"a clock of {clock:,.0f} Hz has {clock / baud:.3g} cycles for a bit at {baud:,.0f} baud, but "
            f"the UART needs {MIN_DIVISOR}; take at most {clock / MIN_DIVISOR:,.0f} baud"
        )
    error = abs(clock / divisor / baud - 1)
    if error > MAX_ERROR:
        raise ValueError(
            f"a clock of {clock:,.0f} Hz makes {baud:,.0f} baud with an error of {error:.1%}, but "
            f"{MAX_ERROR:.0%} is the most; take {clock / ceil(clock / baud):,.0f} baud, or a clock that is a "
            f"multiple of {baud:,.0f} Hz"
        )
    return divisor


class UARTReceiver(wiring.Component):
    """Bytes from a line. A byte without its stop bit is dropped.

    Parameters
    ----------
    divisor
        Cycles of a bit (`divisor_for`).

    Ports
    -----
    line : in
        Not synchronised to the clock; high when idle.
    bytes : out, stream of 8 bits, always ready
        10 · divisor cycles apart or more. A byte comes 2 cycles and 9.5 bits after its start bit.
    """

    def __init__(self, divisor: int):
        self.divisor = divisor
        super().__init__({"line": In(1, init=1), "bytes": Out(stream.Signature(8, always_ready=True))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.line = FFSynchronizer(self.line, line, init=1)
        cycles = Signal(range(self.divisor))
        bits = Signal(range(9))
        m.d.sync += [self.bytes.valid.eq(0), cycles.eq(cycles - 1)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [cycles.eq(self.divisor // 2 - 1), bits.eq(8)]
                with m.If(~line):
                    m.next = "START"
            with m.State("START"), m.If(cycles == 0):
                m.d.sync += cycles.eq(self.divisor - 1)
                m.next = "DATA"
                with m.If(line):  # a glitch
                    m.next = "IDLE"
            with m.State("DATA"), m.If(cycles == 0):
                m.d.sync += cycles.eq(self.divisor - 1)
                with m.If(bits != 0):
                    m.d.sync += [
                        bits.eq(bits - 1),
                        self.bytes.payload.eq(Cat(self.bytes.payload[1:], line)),
                    ]
                with m.Else():
                    m.d.sync += self.bytes.valid.eq(line)
                    m.next = "BREAK"
                    with m.If(line):
                        m.next = "IDLE"
            with m.State("BREAK"), m.If(line):
                m.next = "IDLE"
        return m


class UARTTransmitter(wiring.Component):
    """Bytes to a line.

    Parameters
    ----------
    divisor
        Cycles of a bit (`divisor_for`).

    Ports
    -----
    bytes : in, stream of 8 bits
        One is taken in 10 · divisor cycles.
    line : out
        High when idle. The start bit begins the cycle after the byte was taken.
    """

    def __init__(self, divisor: int):
        self.divisor = divisor
        super().__init__({"bytes": In(stream.Signature(8)), "line": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cycles = Signal(range(self.divisor))
        bits = Signal(range(10))
        shift = Signal(10, init=1)
        free = Signal(init=1)  # a register's: whoever sends has the cycle for itself
        m.d.comb += [self.line.eq(shift[0]), self.bytes.ready.eq(free)]
        with m.If(free), m.If(self.bytes.valid):
            m.d.sync += [
                shift.eq(Cat(0, self.bytes.payload, 1)),
                bits.eq(9),
                cycles.eq(self.divisor - 1),
                free.eq(0),
            ]
        with m.Elif(cycles == 0):
            m.d.sync += [shift.eq(Cat(shift[1:], 1)), bits.eq(bits - 1), cycles.eq(self.divisor - 1)]
        with m.Else():
            m.d.sync += [cycles.eq(cycles - 1), free.eq((cycles == 1) & (bits == 0))]
        return m


class UART(wiring.Component):
    """A receiver and a transmitter.

    Parameters
    ----------
    divisor
        Cycles of a bit (`divisor_for`).

    Ports
    -----
    rx : in
        As `UARTReceiver` has its line.
    tx : out
    received : out, stream of 8 bits, always ready
        From `rx`.
    sent : in, stream of 8 bits
        To `tx`.
    """

    def __init__(self, divisor: int):
        self.divisor = divisor
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "received": Out(stream.Signature(8, always_ready=True)),
                "sent": In(stream.Signature(8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.receiver = receiver = UARTReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UARTTransmitter(self.divisor)
        m.d.comb += [receiver.line.eq(self.rx), self.tx.eq(transmitter.line)]
        connect(m, receiver.bytes, flipped(self.received))
        connect(m, flipped(self.sent), transmitter.bytes)
        return m
