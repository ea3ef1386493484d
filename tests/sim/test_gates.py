"""The benches on the netlist that Yosys maps, of the cells' own models, against golden."""

from __future__ import annotations

import random
import re
from importlib import import_module

import pytest

from quaver.rtl.emit.verilog import to_verilog
from quaver.sim.gates import FAMILIES, mapped
from quaver.sim.runner import run_bench

#: GEMMs and updates of a whole accelerator, and its parts where the cases are in the hands of a bench.
BENCHES = (
    *("float_adder", "pe", "accelerator 1 x 1", "accelerator 3 x 2, stochastic"),
    *("accelerator 1 x 1, integer", "accelerator 1 x 1, bitstream", "systolic 2 x 3, bitstream"),
)


def netlist(name: str, family: str) -> str:
    unit = name.split()[0]
    return mapped(
        to_verilog(import_module(f"quaver.sim.benches.{unit}").VARIANTS[name](), unit), unit, family
    )


def flipped(netlist: str, seed: int) -> str:
    """`netlist` with one bit of one LUT's table the other way round."""
    source = random.Random(seed)
    table = source.choice(list(re.finditer(r"\.(?:LUT_)?INIT\(16'h([0-9a-f]{4})\)", netlist)))
    bits = int(table[1], 16) ^ 1 << source.randrange(16)
    return f"{netlist[: table.start(1)]}{bits:04x}{netlist[table.end(1) :]}"


def test_the_multiplier_over_all_operands() -> None:
    result = run_bench("float_multiplier", gates="ice40")
    assert not result.failures
    assert result.checks == 65536


def test_a_flipped_bit_of_a_lut_is_caught() -> None:
    """Unless no operands reach it: so one of a few."""
    cells = netlist("float_multiplier", "ice40")
    assert len(re.findall(r"^  SB_LUT4 ", cells, re.M)) > 30
    runs = (run_bench("float_multiplier", verilog=flipped(cells, i), gates="ice40") for i in range(5))
    assert any("expected" in line for result in runs for line in result.failures)


@pytest.mark.fpga
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", BENCHES)
def test_bench(name: str, family: str) -> None:
    result = run_bench(name, gates=family)
    print(f"\n{name} on {family}: {result.checks} checks, {len(result.failures)} failures")
    assert not result.failures
    assert result.checks > 50


def test_an_unknown_family() -> None:
    with pytest.raises(ValueError, match=r"^no family 'xc7'; choose from ecp5, ice40$"):
        mapped("", "top", "xc7")
