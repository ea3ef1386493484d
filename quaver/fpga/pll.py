"""Phase-locked loops: a board's crystal to the clock that is wanted, within the datasheets' limits.

A loop divides the crystal to a reference, locks an oscillator to a multiple of it, and divides that again.
All frequencies are in Hz and exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any

from amaranth.hdl import Const, Instance, Signal


@dataclass(frozen=True)
class Limits:
    """What frequencies a PLL allows.

    Attributes
    ----------
    crystal, reference, oscillator, clock
        The lowest and the highest frequency of each, in MHz.
    """

    crystal: tuple[float, float]
    reference: tuple[float, float]
    oscillator: tuple[float, float]
    clock: tuple[float, float]


#: ECP5: FPGA-DS-02012, "sysCLOCK PLL Timing".
ECP5 = Limits((10, 400), (10, 400), (400, 800), (3.125, 400))
#: iCE40: FPGA-DS-02029 (LP/HX) and FPGA-DS-02008 (UltraPlus), "sysCLOCK PLL Timing".
ICE40 = Limits((10, 133), (10, 133), (533, 1066), (16, 275))
#: GW1NR-9C, speed C6/I5: DS117E, "PLL Switching Characteristic".
GOWIN = Limits((3, 400), (3, 400), (400, 1200), (3.125, 600))


@dataclass(frozen=True)
class PLL:
    """A loop's settings, and the cell that has them.

    Attributes
    ----------
    reference, oscillator, clock
        Frequencies, in Hz.
    cell
        The primitive.
    parameters
        Its parameters by name, attributes as a_NAME.
    source, output, lock
        Its ports for the crystal, the clock, and whether the clock can be relied on.
    tied
        Other inputs and what is on them.
    feedback
        An output and the input that it returns to; none if the loop is closed inside.
    """

    reference: Fraction
    oscillator: Fraction
    clock: Fraction
    cell: str
    parameters: dict[str, int | str | Const]
    source: str
    output: str
    lock: str
    tied: dict[str, int]
    feedback: tuple[str, str] | None = None

    def instance(self, crystal: Any, clock: Any, locked: Any) -> Instance:
        """The cell, on these signals; `crystal` is a pad (an IOPort) where `source` is one."""
        ports = {f"i_{self.source}": crystal, f"o_{self.output}": clock, f"o_{self.lock}": locked}
        ports |= {f"i_{name}": Const(value, 1) for name, value in self.tied.items()}
        if self.feedback:
            loop = Signal(name="feedback")
            ports |= {f"o_{self.feedback[0]}": loop, f"i_{self.feedback[1]}": loop}
        parameters = {
            name if name.startswith("a_") else f"p_{name}": value for name, value in self.parameters.items()
        }
        return Instance(self.cell, **parameters, **ports)


def ecp5(crystal: int, wanted: float) -> PLL:
    """The EHXPLLL whose clock is closest to `wanted`.

    The oscillator runs at crystal ÷ CLKI_DIV · CLKFB_DIV · CLKOP_DIV, for it is CLKOP that is compared with
    the reference; the clock is CLKOS, the oscillator ÷ CLKOS_DIV. ValueError: out of reach.
    """

    def candidates() -> Iterator[tuple[Fraction, Fraction, Fraction, tuple[int, ...]]]:
        low, high = (1_000_000 * limit for limit in ECP5.oscillator)
        for clki in range(1, min(128, crystal // 10_000_000) + 1):
            reference = Fraction(crystal, clki)
            for multiple in range(ceil(low / reference), floor(high / reference) + 1):
                oscillator = reference * multiple
                divided = (d for d in range(1, 129) if multiple % d == 0 and multiple // d <= 80)
                clkop = next((d for d in divided if _within(ECP5.clock, oscillator / d)), None)
                if clkop is None:
                    continue
                for clkos in _around(oscillator, wanted, 128):
                    yield reference, oscillator, oscillator / clkos, (clki, multiple // clkop, clkop, clkos)

    reference, oscillator, clock, dividers = _closest(ECP5, crystal, wanted, candidates)
    clki, clkfb, clkop, clkos = dividers
    parameters: dict[str, int | str | Const] = {
        "CLKI_DIV": clki,
        "CLKFB_DIV": clkfb,
        "CLKOP_DIV": clkop,
        "CLKOS_DIV": clkos,
        "CLKOP_CPHASE": clkop - 1,  # no shift
        "CLKOS_CPHASE": clkos - 1,
        "CLKOP_ENABLE": "ENABLED",
        "CLKOS_ENABLE": "ENABLED",
        "FEEDBK_PATH": "CLKOP",
        # The analogue part, as Lattice's own generator has it for any dividers.
        "a_ICP_CURRENT": "12",
        "a_LPF_RESISTOR": "8",
        "a_MFG_ENABLE_FILTEROPAMP": "1",
        "a_MFG_GMCREF_SEL": "2",
    }
    tied = dict.fromkeys(
        ("RST", "STDBY", "PHASESEL0", "PHASESEL1", "PHASEDIR", "PHASESTEP", "PLLWAKESYNC"), 0
    )
    tied |= {"PHASELOADREG": 0, "ENCLKOP": 0, "ENCLKOS": 0}  # enabled by their parameters
    return PLL(
        *(reference, oscillator, clock, "EHXPLLL", parameters, "CLKI", "CLKOS", "LOCK", tied),
        feedback=("CLKOP", "CLKFB"),
    )


def ice40(crystal: int, wanted: float, *, pad: bool) -> PLL:
    """The SB_PLL40 whose clock is closest to `wanted`: crystal ÷ (DIVR + 1) · (DIVF + 1) ÷ 2**DIVQ.

    With `pad`, the crystal is on the PLL's own pin, which it then has for itself. ValueError: out of reach.
    """

    def candidates() -> Iterator[tuple[Fraction, Fraction, Fraction, tuple[int, ...]]]:
        for divr in range(16):
            reference = Fraction(crystal, divr + 1)
            for divf in range(128):
                oscillator = reference * (divf + 1)
                for divq in range(1, 7):
                    yield reference, oscillator, oscillator / 2**divq, (divr, divf, divq)

    reference, oscillator, clock, (divr, divf, divq) = _closest(ICE40, crystal, wanted, candidates)
    parameters: dict[str, int | str | Const] = {
        "FEEDBACK_PATH": "SIMPLE",
        "DIVR": Const(divr, 4),
        "DIVF": Const(divf, 7),
        "DIVQ": Const(divq, 3),
        # By the reference, in MHz.
        "FILTER_RANGE": Const(1 + sum(reference >= 1_000_000 * top for top in (17, 26, 44, 66, 101)), 3),
    }
    cell, source = ("SB_PLL40_PAD", "PACKAGEPIN") if pad else ("SB_PLL40_CORE", "REFERENCECLK")
    tied = {"RESETB": 1, "BYPASS": 0}
    return PLL(reference, oscillator, clock, cell, parameters, source, "PLLOUTGLOBAL", "LOCK", tied)


def gowin(crystal: int, wanted: float) -> PLL:
    """The rPLL whose clock is closest to `wanted`: crystal ÷ (IDIV_SEL + 1) · (FBDIV_SEL + 1).

    The oscillator runs ODIV_SEL times as fast. ValueError: out of reach.
    """

    def candidates() -> Iterator[tuple[Fraction, Fraction, Fraction, tuple[int, ...]]]:
        for idiv in range(64):
            reference = Fraction(crystal, idiv + 1)
            for fbdiv in range(64):
                clock = reference * (fbdiv + 1)
                for odiv in (2, 4, 8, *range(16, 129, 16)):
                    yield reference, clock * odiv, clock, (idiv, fbdiv, odiv)

    reference, oscillator, clock, (idiv, fbdiv, odiv) = _closest(GOWIN, crystal, wanted, candidates)
    parameters: dict[str, int | str | Const] = {
        "DEVICE": "GW1NR-9C",
        "FCLKIN": f"{crystal / 1e6:g}",
        "IDIV_SEL": idiv,
        "FBDIV_SEL": fbdiv,
        "ODIV_SEL": odiv,
        "CLKFB_SEL": "internal",
        "DYN_IDIV_SEL": "false",
        "DYN_FBDIV_SEL": "false",
        "DYN_ODIV_SEL": "false",
        "DYN_SDIV_SEL": 2,
        "DYN_DA_EN": "false",
        "PSDA_SEL": "0000",
        "DUTYDA_SEL": "1000",
    }
    tied = {"RESET": 0, "RESET_P": 0, "CLKFB": 0}
    return PLL(reference, oscillator, clock, "rPLL", parameters, "CLKIN", "CLKOUT", "LOCK", tied)


def _within(limits: tuple[float, float], frequency: Fraction) -> bool:
    return limits[0] * 1_000_000 <= frequency <= limits[1] * 1_000_000


def _around(oscillator: Fraction, wanted: float, most: int) -> tuple[int, ...]:
    """The dividers whose clocks are next to `wanted`."""
    below = int(oscillator / Fraction(wanted))
    return tuple(divider for divider in (below, below + 1) if 1 <= divider <= most)


def _closest(
    limits: Limits,
    crystal: int,
    wanted: float,
    candidates: Callable[[], Iterator[tuple[Fraction, Fraction, Fraction, tuple[int, ...]]]],
) -> tuple[Fraction, Fraction, Fraction, tuple[int, ...]]:
    """Of the settings within `limits` the closest; of equals that with the slowest oscillator."""
    low, high = limits.clock
    if not low * 1e6 <= wanted <= high * 1e6:
        raise ValueError(
            f"a clock of {wanted / 1e6:g} MHz is wanted, but the PLL makes {low:g} to {high:g} MHz"
        )
    if not _within(limits.crystal, Fraction(crystal)):
        low, high = limits.crystal
        raise ValueError(f"the crystal has {crystal / 1e6:g} MHz, but the PLL takes {low:g} to {high:g} MHz")
    allowed = (
        one
        for one in candidates()
        if _within(limits.reference, one[0])
        and _within(limits.oscillator, one[1])
        and _within(limits.clock, one[2])
    )
    return min(allowed, key=lambda one: (abs(one[2] - Fraction(wanted)), one[1], one[3]))
