"""The boards: what Amaranth's platforms are told of pins, clocks and parts, and what ends up on them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from quaver.fpga.arrays import reports
from quaver.fpga.boards import BOARDS, Family, board
from quaver.fpga.build import TOOLS, BuildPlan, plan
from quaver.fpga.design import Design, Top
from quaver.golden.nn import recipes
from quaver.golden.nn.recipe import Recipe

CLOCK = {Family.ECP5: 60e6, Family.ICE40: 30e6, Family.GOWIN: 27e6}
#: Pins of the serial line and the crystal, as the boards' own documents have them: receive, send, crystal.
PINS = {
    "ulx3s-85f": ("M1", "L4", "G2"),  # FT231X's TXD and RXD
    "orangecrab-85f": ("N17", "M18", "A9"),  # 0 and 1 of the Feather's header
    "ecpix-5": ("R26", "R24", "K23"),
    "icebreaker": ("6", "9", "35"),
    "ice40-hx8k": ("B10", "B12", "J3"),
    "tang-nano-9k": ("18", "17", "52"),
}
PARTS = {
    "ulx3s-85f": "--85k --package CABGA381 --speed 6",
    "orangecrab-85f": "--85k --package CSFBGA285 --speed 8",
    "ecpix-5": "--um5g-85k --package CABGA554 --speed 8",
    "icebreaker": "--up5k --package sg48",
    "ice40-hx8k": "--hx8k --package ct256",
    "tang-nano-9k": "--device GW1NR-LV9QN88PC6/I5 --vopt family=GW1N-9C --vopt cst=top.cst",
}

EMPTY = f"module {Top.CORE}(input clk, rst, rx, output tx); endmodule"


def design(name: str, **changes: Any) -> Design:
    place = BOARDS[name]
    options: dict[str, Any] = {"arithmetic": "fp8", "rows": 1, "columns": 1, "clock_hz": CLOCK[place.family]}
    return Design(board=name, **(options | {"depth": 16, "update": False, "baud": place.baud} | changes))


@pytest.fixture
def planned(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BuildPlan:
    """The plan for a board, around an empty accelerator: what is inside is none of the platform's affairs."""
    monkeypatch.setattr(Top, "core", lambda top: EMPTY)
    return plan(design(request.param))


@pytest.mark.parametrize(("planned", "name"), [(name, name) for name in BOARDS], indirect=["planned"])
def test_pins_clock_and_part(planned: BuildPlan, name: str) -> None:
    (constraints,) = (text for file, text in planned.files.items() if file.endswith((".lpf", ".pcf", ".cst")))
    assert isinstance(constraints, str)
    found = dict(
        match.groups()[::-1]
        for pattern in (r'COMP "(\w+)" SITE "(\w+)"', r"set_io (\w+) (\w+)", r'IO_LOC "(\w+)" (\w+);')
        for match in re.finditer(pattern, constraints)
    )
    rx, tx, crystal = PINS[name]
    assert found[rx] == "uart_0__rx__io"
    assert found[tx] == "uart_0__tx__io"
    assert found[crystal].startswith("clk")
    clock = float(design(name).pll.clock_hz)
    if board(name).family is Family.ECP5:
        assert f'FREQUENCY NET "pll_clock" {clock} HZ' in constraints
        assert f'IOBUF PORT "{found[rx]}" IO_TYPE=LVCMOS33' in constraints
    elif board(name).family is Family.ICE40:
        assert f"set_frequency pll_clock {clock / 1e6}" in constraints
    (nextpnr,) = (" ".join(command) for command in planned.commands if command[0].startswith("nextpnr"))
    words = nextpnr.split()
    assert all(word in words for word in PARTS[name].split())
    assert {command[0] for command in planned.commands} == TOOLS[board(name).family].commands.keys()


def test_the_key_names_all_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Top, "core", lambda top: EMPTY)
    key = plan(design("icebreaker")).key
    assert plan(design("icebreaker")).key == key
    assert plan(design("icebreaker", seed=2)).key != key
    assert plan(design("icebreaker", clock_hz=36e6)).key != key
    monkeypatch.setattr("quaver.fpga.build.version", lambda package: "0")
    assert plan(design("icebreaker")).key != key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"board": "de10"}, "the board is 'de10', but there are ulx3s-85f"),
        ({"arithmetic": "fp4"}, "--arithmetic is fp4, but there are fp8, fp16, "),
        ({"clock_hz": 500e6}, "500 MHz is wanted, but the PLL makes"),
        ({"clock_hz": 25.5e6}, "3,000,000 baud with an error of"),
        ({"rows": 0}, "an array of 0 × 1"),
        ({"depth": 0}, "depth is 0"),
    ],
)
def test_bad_designs(changes: dict[str, Any], message: str) -> None:
    options = {"board": "ulx3s-85f", "arithmetic": "fp8", "rows": 1, "columns": 1, "clock_hz": 60e6} | changes
    with pytest.raises(ValueError, match=message):
        Design(**options)


def _asked_of_an_engine(one: Recipe) -> set[str]:
    precisions = (one.hidden, one.first, one.last)
    gemms = [g for p in precisions if p for g in (p.forward, p.backward, p.gradient)]
    return {repr(gemm) for gemm in gemms if gemm}


def test_requantisation_multiplies_in_multipliers() -> None:
    """Of elements that multiply in logic, whose own products stay there."""
    without, given = (plan(design("ulx3s-85f", arithmetic="int4", codes=codes)) for codes in (0, 4))
    assert "mul2dsp" not in without.files["top.ys"]
    assert "mul2dsp.v" in given.files["top.ys"]
    assert "-nodsp" in given.files["top.ys"]
    assert any("router2" in command for command in given.commands)


def test_requantisation_multiplies_in_an_up5k_s_multipliers_too() -> None:
    """As long as there are enough, and the elements' own products stay in logic."""
    size = {"rows": 1, "columns": 2, "clock_hz": 24e6}
    for arithmetic, changes, dsp in (
        ("int4", {"codes": 4}, True),
        ("int4", {}, False),
        ("int4", {"codes": 4, "columns": 3}, False),
        ("int5", {"codes": 4}, False),
    ):
        options: dict[str, Any] = {"arithmetic": arithmetic, **size, **changes}
        script = plan(design("icebreaker", **options)).files["top.ys"]
        assert ("-dsp" in str(script)) == dsp, options


def test_a_recipe_for_every_arithmetic() -> None:
    """`fp8` on FP16 operands, the others on their own; the host updates where the board does not."""
    found = {
        "fp8": "fp8-everywhere",
        "fp16": "fp8",
        "fp8-stochastic": "fp8-everywhere-stochastic",
        "fp16-stochastic": "fp8-stochastic",
        "fixed16": "fixed16-q8.8",
        "int2": "pact-2",
        "int4": "pact-4",
    }
    ulx3s = {name: design("ulx3s-85f", arithmetic=name, update=True) for name in found}
    first = {name: one.recipes()[0] for name, one in ulx3s.items()}
    assert first == found
    for name in ("fp8", "fixed16"):
        assert _asked_of_an_engine(recipes.recipe(first[name])) == {repr(ulx3s[name].computes)}
    assert "fp8-nearest-update" not in ulx3s["fp16"].recipes()
    assert design("ulx3s-85f", update=False).recipes() == ulx3s["fp8"].recipes()
    # What the report tells, and the cache keeps apart.
    assert {name for name, one in ulx3s.items() if not one.update} == {"int2", "int4"}


def test_what_is_stored_is_a_design_that_met_its_clock() -> None:
    stored = reports()
    assert len({(r.design["board"], r.design["arithmetic"]) for r in stored}) == len(stored)
    for report in stored:
        found = Design(**report.design)
        assert not report.missed
        assert report.asked_mhz == pytest.approx(float(found.pll.clock_hz) / 1e6, abs=1e-3)
        assert all(use.used <= use.available for use in report.use.values())
