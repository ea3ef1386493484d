"""What goes onto a board: an accelerator behind its serial line, with a clock and a reset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import Any

from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    DomainRenamer,
    Elaboratable,
    Instance,
    Module,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.lib import io

from quaver.fpga.boards import BOARDS, Board, Family
from quaver.fpga.pll import PLL
from quaver.fpga.reset import HeldReset
from quaver.golden.arithmetic.named import named
from quaver.golden.contracts import Arithmetic, HardwareRule
from quaver.golden.validation import set_integers
from quaver.host.board_engine import recipes
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.compression.named import compression_unit
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.link.serial_unit import SerialUnit
from quaver.rtl.update import unit_for
from quaver.rtl.update.float_sgd import MAX_STAGES
from quaver.rtl.update.unit import UpdateUnit

#: How long the reset lasts once the clock is there, in seconds: block RAM of the iCE40 reads as zeros for
#: the first 3 µs.
RESET = 15e-6


@dataclass(frozen=True)
class Design:
    """An accelerator on a board.

    Parameters
    ----------
    board
        Of `quaver.fpga.boards.BOARDS`.
    arithmetic
        As `quaver.golden.arithmetic.named` has it: fp8, or chunked_float(operand=e4m3fnsat, chunk=32).
    rows, columns, stages, depth
        As of `quaver.rtl.accelerator.accelerator.Accelerator`.
    update
        Whether it has the unit of the arithmetic's default update; false where there is none.
    clock_hz
        The clock that is wanted, in Hz; the PLL comes as close as it can.
    baud
        Of the serial line.
    seed
        Of the placement.
    codes
        As of the accelerator: bits of the next layer's codes that leave the array in place of sums, or 0.
    compression
        The unit that compresses gradients, as `quaver.rtl.compression.named` has it: none, adacomp, or
        adacomp(longest=64).

    Raises
    ------
    ValueError
        No such board or arithmetic, a clock that its PLL does not make, a baud rate that the clock does not
        make, or what the accelerator refuses.
    """

    board: str
    arithmetic: str
    rows: int
    columns: int
    clock_hz: float
    stages: int = 4
    depth: int = 512
    update: bool = True
    baud: int = 3_000_000
    seed: int = 1
    codes: int = 0
    compression: str = "none"

    def __post_init__(self) -> None:
        set_integers(self, "rows", "columns", "stages", "depth", "baud", "seed", "codes")
        if self.board not in BOARDS:
            raise ValueError(f"the board is {self.board!r}, but there are {', '.join(BOARDS)}")
        if self.computes.default_update is None:  # says what is wrong with the arithmetic, too
            object.__setattr__(self, "update", False)
        if self.rows * self.columns > self.place.luts:
            raise ValueError(
                f"the array has {self.rows}×{self.columns} elements, but {self.place.title} has "
                f"{self.place.luts:,} LUT4; take fewer rows or columns"
            )
        _ = self.serial  # which says what is wrong

    def at_most(self, mhz: float) -> Design:
        """The same at a clock close to, and at most, `mhz` that its PLL and UART have. ValueError: none."""
        step = 0.25
        for i in range(int(mhz / step)):
            try:
                slower = replace(self, clock_hz=(mhz - i * step) * 1e6)
            except ValueError:
                continue
            if slower.pll.clock_hz <= mhz * 1e6:
                return slower
        raise ValueError(f"no clock up to {mhz:g} MHz makes {self.baud:,} baud")

    @property
    def place(self) -> Board:
        return BOARDS[self.board]

    @cached_property
    def pll(self) -> PLL:
        return self.place.pll(self.clock_hz)

    @property
    def computes(self) -> Arithmetic:
        """What the array computes."""
        return named(self.arithmetic)

    @property
    def rule(self) -> HardwareRule | None:
        """What the update unit computes, if there is one; its scalars mean nothing."""
        return self.computes.default_update if self.update else None

    @property
    def multiplies_in_dsp(self) -> bool:
        """Whether a product is worth a multiplier of the chip."""
        return self.accelerator.array.element.multiplies_in_dsp

    @cached_property
    def accelerator(self) -> Accelerator:
        return Accelerator(
            self.computes,
            rows=self.rows,
            columns=self.columns,
            stages=self.stages,
            depth=self.depth,
            update=self._unit(),
            codes=self.codes,
            compression=compression_unit(self.compression, self.stages),
        )

    def _unit(self) -> UpdateUnit | None:
        if self.rule is None:
            return None
        # The small chips have no room for registers that their clock does not need.
        return unit_for(self.rule, stages=MAX_STAGES if self.place.family is Family.ECP5 else self.stages)

    @cached_property
    def serial(self) -> SerialUnit:
        return SerialUnit(self.accelerator, clock_hz=float(self.pll.clock_hz), baud=self.baud)

    def recipes(self) -> list[str]:
        """The recipes whose every GEMM this accelerator computes, and every update if it has the unit."""
        return recipes(self.accelerator.identity)


class Top(Elaboratable):
    """Everything on the board: PLL, reset, and module `CORE` between the pins of its serial line."""

    #: The module that `core` is the Verilog of.
    CORE = "serial_accelerator"

    def __init__(self, design: Design) -> None:
        self.design = design

    def core(self) -> str:
        """Verilog of the accelerator behind its serial line. It is the simulated one, emitted as ever."""
        return to_verilog(self.design.serial, self.CORE)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        board, pll = self.design.place, self.design.pll
        pad = platform.request(platform.default_clk, dir="-")
        if board.pad:
            crystal: Any = pad.io
        else:
            m.submodules.crystal = buffer = io.Buffer("i", pad)
            crystal = buffer.i
        m.domains.sync = ClockDomain()
        clock = Signal(name="pll_clock")
        locked = Signal()
        m.submodules.pll = pll.instance(crystal, clock, locked)
        m.d.comb += ClockSignal().eq(clock)
        platform.add_clock_constraint(clock, float(pll.clock_hz))

        # The reset ends some time after the clock can be relied on and nobody holds the button.
        m.domains.start = ClockDomain(local=True, reset_less=True)
        m.d.comb += ClockSignal("start").eq(clock)
        m.submodules.reset = reset = DomainRenamer("start")(HeldReset(ceil(RESET * pll.clock_hz)))
        good: Value = locked
        if platform.default_rst:
            m.submodules.button = button = io.Buffer("i", platform.request(platform.default_rst, dir="-"))
            good = locked & ~button.i
        m.d.comb += [reset.good.eq(good), ResetSignal().eq(reset.reset)]

        line = platform.request("uart", dir={"rx": "-", "tx": "-"} | _others(platform))
        m.submodules.rx = rx = io.Buffer("i", line.rx)
        m.submodules.tx = tx = io.Buffer("o", line.tx)
        m.submodules.core = Instance(
            self.CORE, i_clk=ClockSignal(), i_rst=ResetSignal(), i_rx=rx.i, o_tx=tx.o
        )
        return m


def _others(platform: Any) -> dict[str, str]:
    """The handshake lines of some boards' serial ports, which stay as they are."""
    names = [line.name for line in platform.lookup("uart", 0).ios]
    return {name: "-" for name in names if name not in ("rx", "tx")}
