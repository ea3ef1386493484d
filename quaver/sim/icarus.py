"""Icarus Verilog as a second simulator of the benches: interpreted, slow, four states, and not Verilator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from cocotb_tools import config

from quaver.sim import programs


def command(folder: Path, verilog: str, top: str, waves: bool) -> list[str]:
    """The command that simulates module `top` of `verilog` under cocotb, compiled into `folder`.

    With `waves` it writes dump.fst where it runs.

    Raises
    ------
    RuntimeError
        No Icarus Verilog, or it refused the Verilog; the message ends with what it said.
    """
    compiler, machine = _tool("iverilog"), _tool("vvp")
    (folder / "design.v").write_text(verilog)
    dump = f'initial begin $dumpfile("dump.fst"); $dumpvars(0, {top}); end' if waves else ""
    (folder / "dump.v").write_text(f"`timescale 1ns/1ps\nmodule dump; {dump} endmodule\n")
    (folder / "command.f").write_text("+timescale+1ns/1ps\n")
    asked = [compiler, "-g2012", "-f", "command.f", "-s", top, "-s", "dump", "-o", "design.vvp"]
    done = programs.run([*asked, "design.v", "dump.v"], folder)
    if done.returncode:
        raise RuntimeError("iverilog failed:\n" + "\n".join(done.stderr.splitlines()[-20:]))
    return [machine, "-m", config.lib_entry("vpi", "icarus"), str(folder / "design.vvp"), "-fst"]


def version() -> str:
    """What Icarus Verilog calls its version. RuntimeError: there is none."""
    said = subprocess.run([_tool("iverilog"), "-V"], capture_output=True, text=True, errors="replace").stdout
    return said.partition("\n")[0].removeprefix("Icarus Verilog version ").partition(" ")[0]


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"no {name}; install Icarus Verilog 11 or later, or take --simulator verilator")
    return found
