"""The accelerator behind AXI: that its bench can fail, and what the bench does not see."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from equivalence import yosys
from test_mutations import mutated
from test_verilog import lint, ports, verilog

from quaver.rtl.accelerator.axi import Register
from quaver.rtl.commands import Identity, Opcode, ResponseHeader
from quaver.rtl.emit.verilog import to_verilog
from quaver.sim.benches.axi_accelerator import VARIANTS
from quaver.sim.runner import run_bench
from quaver.sim.verilated import compile_library

EXAMPLE = Path(__file__).parents[2] / "examples" / "axi_accelerator.v"
HARNESS = """
#include "Vmodel.h"
extern "C" int run(int cycles, uint32_t* words, uint8_t* lasts) {
    Vmodel model;
    int count = 0;
    for (int cycle = 0; cycle < cycles; ++cycle) {
        model.resetn = cycle > 3;
        model.clk = 0, model.eval();
        if (model.valid) words[count] = model.word, lasts[count++] = model.last;
        model.clk = 1, model.eval();
    }
    return count;
}
"""

#: name → edits of rtl/accelerator/axi.py (old text, new text): what an engineer's slip would look like.
MUTANTS = {
    "an answer that is withdrawn": ("axi.bvalid & axi.bready", "axi.bvalid"),
    "data may change before they are taken": ("axi.arready.eq(~axi.rvalid)", "axi.arready.eq(1)"),
    "a write without its data": (
        "m.If(has_address & has_word & ~axi.bvalid)",
        "m.If(has_address & ~axi.bvalid)",
    ),
    "strobes not looked at": ("Cat(strobe.replicate(8) for strobe in strobes)", "0xFFFFFFFF"),
    "reset in any byte": ("m.Case(Register.CONTROL >> 2), m.If(strobes[0])", "m.Case(Register.CONTROL >> 2)"),
    "unmapped addresses are OKAY": ("axi.rresp.eq(Answer.SLVERR)", "axi.rresp.eq(Answer.OKAY)"),
    "addresses wrap": ("m.Switch(axi.araddr[2:])", "m.Switch(axi.araddr[2:8])"),
    "the last refusal is kept": (" & (error == 0)", ""),
    "TLAST a word early": ("left_out == 1))", "left_out == 2))"),
    "a cut packet stays open": ("cut.eq(is_open & (left_out == 0))", "cut.eq(0)"),
    "reset forgets what is offered": (
        "exit_ = SyncFIFO(width=33, depth=2)",
        'exit_ = DomainRenamer("core")(SyncFIFO(width=33, depth=2))',
    ),
    "reset leaves the sums": ("core.rst.eq(~self.aresetn | reset)", "core.rst.eq(~self.aresetn)"),
    "never busy": ("busy.eq(", "busy.eq(0 & "),
}


def mutant(name: str) -> list[str]:
    with mutated("accelerator/axi", *MUTANTS[name]):
        text = to_verilog(
            sys.modules["quaver.rtl.accelerator.axi"].AxiAccelerator(
                VARIANTS["axi_accelerator"]().accelerator
            ),
            "axi_accelerator",
        )
    return run_bench("axi_accelerator", verilog=text).failures


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_bench_catches(name: str) -> None:
    assert mutant(name)


@cache
def small() -> str:
    return verilog("axi_accelerator", "--rows 1 --columns 1 --stages 2 --depth 4 --update none")


def test_ports() -> None:
    lite = {
        "aw": ("addr", "valid", "ready"),
        "w": ("data", "strb", "valid", "ready"),
        "b": ("resp", "valid", "ready"),
        "ar": ("addr", "valid", "ready"),
        "r": ("data", "resp", "valid", "ready"),
    }
    assert ports(small(), "axi_accelerator") == {
        "aclk",
        "aresetn",
        *(f"s_axi_{channel}{signal}" for channel, signals in lite.items() for signal in signals),
        *(f"s_axis_t{signal}" for signal in ("data", "valid", "ready")),
        *(f"m_axis_t{signal}" for signal in ("data", "valid", "ready", "last")),
    }


@pytest.mark.parametrize(("unit", "combinational"), [("axi_accelerator", False), ("rounding", True)])
def test_no_path_from_an_input_to_an_output(unit: str, combinational: bool) -> None:
    """As AXI asks."""
    text = small() if unit == "axi_accelerator" else verilog(unit)
    script = f"read_verilog unit.v; hierarchy -top {unit}; proc; flatten; memory; "
    result = yosys(script + "select -assert-none i:* %coe* o:* %i", {"unit.v": text})
    assert (result.returncode != 0) == combinational, result.stderr
    assert ("selection is not empty" in result.stderr) == combinational


def test_registers_stand_as_documented() -> None:
    from quaver.rtl.accelerator.axi import AxiAccelerator

    for register in Register:
        assert f"0x{register:02X}   {register.name} " in (AxiAccelerator.__doc__ or "")


def test_the_example(tmp_path: Path) -> None:
    """It is clean to lint, and does what it says."""
    text = EXAMPLE.read_text() + small()
    assert lint(text, tmp_path) == ""
    harness = tmp_path / "identify.cpp"
    harness.write_text(HARNESS)
    run: Callable[..., int] = compile_library(text, "identify", harness).run
    words, lasts = np.zeros(100, np.uint32), np.zeros(100, np.uint8)
    count = run(200, words.ctypes.data_as(ctypes.c_void_p), lasts.ctypes.data_as(ctypes.c_void_p))
    header = ResponseHeader.unpack(int(words[0]))
    assert (header.opcode, header.length + 1) == (Opcode.IDENTIFY, count)
    assert lasts[:count].tolist() == [0] * (count - 1) + [1]
    identity = Identity.from_words(words[1:count].tolist())
    assert (identity.geometry.rows, identity.geometry.columns, identity.geometry.depth) == (1, 1, 4)
