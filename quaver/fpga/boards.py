"""The boards: what each has, where its serial line is, and how a bitstream gets into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any

from quaver.fpga import pll

#: How bitstreams for the iCE40 begin, up to the width of the part's configuration memory.
ICE40_SIGN = bytes.fromhex("ff0000ff 7eaa997e 51000105 920020 62")


class Family(StrEnum):
    """FPGAs that are built for with the same tools."""

    ECP5 = "ecp5"
    ICE40 = "ice40"
    GOWIN = "gowin"


@dataclass(frozen=True)
class Board:
    """A board, and what an accelerator on it needs to know.

    Attributes
    ----------
    title
        Its name in print.
    family
        Which tools build for it.
    platform
        MODULE:CLASS of amaranth-boards, which has its pins.
    crystal_hz
        Frequency of its crystal, in Hz.
    luts
        LUT4s that its FPGA has.
    baud
        Bits a second on its serial line, unless a design asks for something else.
    loader
        openFPGALoader's name for it.
    sign
        The bytes that its bitstreams begin with, which name the part; for Gowin they only say that it is a
        bitstream.
    line
        How the serial line reaches the host.
    uart
        Pins rx and tx, their connector and attributes, where the board has no chip for a serial line.
    pad
        Whether the crystal is on the pin that an iCE40's PLL has for itself.
    in_flash
        Whether the loader always writes the flash, because it cannot load the FPGA alone.
    """

    title: str
    family: Family
    platform: str
    crystal_hz: int
    luts: int
    loader: str
    sign: bytes
    line: str
    baud: int = 3_000_000
    uart: tuple[str, str, tuple[str, int], dict[str, str]] | None = None
    pad: bool = False
    in_flash: bool = False

    @property
    def suffix(self) -> str:
        """The suffix of its bitstreams' names, by which the loader recognises them."""
        return {Family.ECP5: ".bit", Family.ICE40: ".bin", Family.GOWIN: ".fs"}[self.family]

    def make_platform(self) -> Any:
        """Amaranth's platform, with the serial line as its resource uart. RuntimeError: not installed."""
        module, name = self.platform.split(":")
        try:
            from amaranth.build import Attrs, Pins, Resource, Subsignal

            platform = getattr(import_module(f"amaranth_boards.{module}"), name)()
        except ImportError as error:
            raise RuntimeError(
                f"no pins of the boards ({error}); install them: pip install amaranth-boards"
            ) from error
        if self.uart:
            rx, tx, connector, attributes = self.uart
            lines = (("rx", rx, "i"), ("tx", tx, "o"))
            platform.add_resources(
                [
                    Resource(
                        *("uart", 0),
                        *(Subsignal(line, Pins(pin, dir=way, conn=connector)) for line, pin, way in lines),
                        Attrs(**attributes),
                    )
                ]
            )
        return platform

    def pll(self, wanted: float) -> pll.PLL:
        """The PLL whose clock is closest to `wanted`, in Hz. ValueError: out of its reach."""
        make: dict[Family, Callable[[], pll.PLL]] = {
            Family.ECP5: lambda: pll.ecp5(self.crystal_hz, wanted),
            Family.ICE40: lambda: pll.ice40(self.crystal_hz, wanted, pad=self.pad),
            Family.GOWIN: lambda: pll.gowin(self.crystal_hz, wanted),
        }
        return make[self.family]()


#: Name → board.
BOARDS: dict[str, Board] = {
    "ulx3s-85f": Board(
        "ULX3S-85F",
        Family.ECP5,
        "ulx3s:ULX3S_85F_Platform",
        crystal_hz=25_000_000,
        luts=83_640,
        loader="ulx3s",
        sign=b"\xff\x00Part: LFE5U-85F-6CABGA381\x00",
        line="the board's USB port US1 (FT231X)",
    ),
    "orangecrab-85f": Board(
        "OrangeCrab 85F (r0.2)",
        Family.ECP5,
        "orangecrab_r0_2:OrangeCrabR0_2_85FPlatform",
        crystal_hz=48_000_000,
        luts=83_640,
        loader="orangeCrab",
        sign=b"\xff\x00Part: LFE5U-85F-8CSFBGA285\x00",
        line="a 3.3 V USB adapter: its TX on pin 0, its RX on pin 1, ground on GND",
        uart=("0", "1", ("io", 0), {"IO_TYPE": "LVCMOS33", "PULLMODE": "UP"}),
        in_flash=True,
    ),
    "ecpix-5": Board(
        "ECPIX-5 85F",
        Family.ECP5,
        "ecpix5:ECPIX585Platform",
        crystal_hz=100_000_000,
        luts=83_640,
        loader="ecpix5",
        sign=b"\xff\x00Part: LFE5UM5G-85F-8CABGA554\x00",
        line="the board's USB debug port (FT2232H)",
    ),
    "icebreaker": Board(
        "iCEBreaker",
        Family.ICE40,
        "icebreaker:ICEBreakerPlatform",
        crystal_hz=12_000_000,
        luts=5_280,
        loader="ice40_generic",
        sign=ICE40_SIGN + b"\x02\xb3",
        line="the board's USB port (FT2232H)",
        pad=True,
        in_flash=True,
    ),
    "ice40-hx8k": Board(
        "iCE40-HX8K breakout",
        Family.ICE40,
        "ice40_hx8k_b_evn:ICE40HX8KBEVNPlatform",
        crystal_hz=12_000_000,
        luts=7_680,
        loader="ice40_generic",
        sign=ICE40_SIGN + b"\x03\x67",
        line="the board's USB port (FT2232H)",
        in_flash=True,
    ),
    "tang-nano-9k": Board(
        "Tang Nano 9K",
        Family.GOWIN,
        "tang_nano_9k:TangNano9kPlatform",
        crystal_hz=27_000_000,
        luts=8_640,
        loader="tangnano9k",
        sign=b"1111",
        line="the board's USB port (BL702)",
        baud=1_000_000,
    ),
}


def board(name: str) -> Board:
    """The board called `name`. ValueError: there is none."""
    if name not in BOARDS:
        raise ValueError(f"the board is {name!r}, but there are {', '.join(BOARDS)}")
    return BOARDS[name]
