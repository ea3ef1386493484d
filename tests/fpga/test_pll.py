"""The PLLs' settings: their primitives' formulas, the datasheets' limits, and next to what is wanted."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from quaver.fpga import pll

#: The crystals of the boards, and those at the limits.
CRYSTALS = {"ecp5": (10, 25, 48, 100), "ice40": (10, 12, 100), "gowin": (3, 27, 50)}
WANTED = {
    "ecp5": (3.125, 24, 66.6, 90, 121.3, 400),
    "ice40": (16, 21, 31, 45, 100.5, 275),
    "gowin": (9, 27, 45, 100, 600),
}


def settings(family: str, crystal: float, wanted: float) -> pll.PLL:
    if family == "ice40":
        return pll.ice40(int(crystal * 1e6), wanted * 1e6, pad=False)
    return getattr(pll, family)(int(crystal * 1e6), wanted * 1e6)


def computed(family: str, crystal: Fraction, found: pll.PLL) -> tuple[Fraction, Fraction, Fraction]:
    """Reference, oscillator and clock again, from the parameters alone, as the vendors' manuals have them."""
    p: dict[str, Any] = {name: getattr(value, "value", value) for name, value in found.parameters.items()}
    if family == "ecp5":  # FPGA-TN-02200
        reference = crystal / p["CLKI_DIV"]
        oscillator = reference * p["CLKFB_DIV"] * p["CLKOP_DIV"]
        return reference, oscillator, oscillator / p["CLKOS_DIV"]
    if family == "ice40":  # FPGA-TN-02052, FEEDBACK_PATH SIMPLE
        reference = crystal / (p["DIVR"] + 1)
        oscillator = reference * (p["DIVF"] + 1)
        return reference, oscillator, oscillator / 2 ** p["DIVQ"]
    reference = crystal / (p["IDIV_SEL"] + 1)  # UG286, rPLL
    clock = reference * (p["FBDIV_SEL"] + 1)
    return reference, clock * p["ODIV_SEL"], clock


LIMITS = {
    "ecp5": {"reference": (10, 400), "oscillator": (400, 800), "clock": (3.125, 400)},
    "ice40": {"reference": (10, 133), "oscillator": (533, 1066), "clock": (16, 275)},
    "gowin": {"reference": (3, 400), "oscillator": (400, 1200), "clock": (3.125, 600)},
}
RANGES = {
    "CLKI_DIV": range(1, 129),
    "CLKFB_DIV": range(1, 81),
    "CLKOP_DIV": range(1, 129),
    "CLKOS_DIV": range(1, 129),
    "DIVR": range(16),
    "DIVF": range(128),
    "DIVQ": range(1, 7),
    "FILTER_RANGE": range(1, 7),
    "IDIV_SEL": range(64),
    "FBDIV_SEL": range(64),
    "ODIV_SEL": (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128),
}


@pytest.mark.parametrize(
    ("family", "crystal", "wanted"), [(f, c, w) for f in CRYSTALS for c in CRYSTALS[f] for w in WANTED[f]]
)
def test_formulas_and_limits(family: str, crystal: float, wanted: float) -> None:
    try:
        found = settings(family, crystal, wanted)
    except ValueError as error:
        pytest.fail(str(error))
    assert (found.reference_hz, found.oscillator_hz, found.clock_hz) == computed(
        family, Fraction(int(crystal * 1_000_000)), found
    )
    for name, (low, high) in LIMITS[family].items():
        assert low * 1_000_000 <= getattr(found, f"{name}_hz") <= high * 1_000_000, name
    for name, value in found.parameters.items():
        if name in RANGES:
            assert getattr(value, "value", value) in RANGES[name], name
    if family == "ecp5":  # what is compared with the reference is an output too
        feedback = found.oscillator_hz / int(found.parameters["CLKOP_DIV"])  # type: ignore[call-overload]
        assert 3_125_000 <= feedback <= 400_000_000


@pytest.mark.parametrize(
    ("family", "crystal", "wanted", "clock"),
    [
        ("ecp5", 25, 90, Fraction(90)),  # 450 ÷ 5 = 25 · 18 ÷ 5
        ("ecp5", 25, 121.3, Fraction(725, 6)),  # 25 · 29 ÷ 6
        ("ice40", 12, 45, Fraction(45)),  # 720 ÷ 16
        ("ice40", 12, 100.5, Fraction(201, 2)),  # 804 ÷ 8
        ("gowin", 27, 45, Fraction(45)),  # 27 ÷ 3 · 5
    ],
)
def test_known_settings(family: str, crystal: float, wanted: float, clock: Fraction) -> None:
    found = settings(family, crystal, wanted)
    assert found.clock_hz == clock * 1_000_000


def test_no_setting_of_the_ice40_is_closer() -> None:
    """Against all of them."""
    for wanted in (17.3, 33.3, 48.1, 77.7, 230.9):
        every = (
            Fraction(12 * (f + 1), 2**q)
            for f in range(128)
            for q in range(1, 7)
            if 533 <= 12 * (f + 1) <= 1066 and 16 <= Fraction(12 * (f + 1), 2**q) <= 275
        )
        closest = min(abs(clock - Fraction(wanted)) for clock in every)
        found = settings("ice40", 12, wanted).clock_hz / 1_000_000
        assert abs(abs(found - Fraction(wanted)) - closest) < Fraction(1, 10**9)


@pytest.mark.parametrize(
    ("family", "crystal", "wanted", "message"),
    [
        ("ecp5", 25, 401, "a clock of 401 MHz is wanted, but the PLL makes 3.125 to 400 MHz"),
        ("ice40", 12, 15, "a clock of 15 MHz is wanted, but the PLL makes 16 to 275 MHz"),
        ("gowin", 27, 601, "3.125 to 600 MHz"),
        ("ice40", 9, 30, "the crystal has 9 MHz, but the PLL takes 10 to 133 MHz"),
    ],
)
def test_what_no_pll_makes(family: str, crystal: float, wanted: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(family, crystal, wanted)
