"""Which accumulator to build: a chain of rounding adders or fused dot products, a multiply-accumulate each.

Area of one processing element on the ECP5 (LUT4, by Yosys; two for a carry cell) and for silicon (NAND2, as
bench/gates.py maps), over the products that it takes a cycle; its clock on the ECP5 with --clock. Beside it
the relative error of sums of K products of normal FP8 (1-5-2) operands, root mean square, by the golden
kernels.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from area import DEVICES, cells, clock
from gates import area, gates
from rich.console import Console
from rich.table import Table

from quaver.golden.arithmetic import AlignedFloat, ChunkedFloat
from quaver.golden.arithmetic.chunked_float import NO_CHUNKS
from quaver.golden.contracts import Arithmetic
from quaver.golden.formats import FP8, FP16, FP32
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.pe import pe_for


def elements(groups: list[int]) -> dict[str, Arithmetic]:
    """What is compared; the first is the reference."""
    found: dict[str, Arithmetic] = {
        "chunked 1-6-9 in 64": ChunkedFloat(),
        "chunked 1-6-9 in 64, totals FP32": ChunkedFloat(total=FP32),
        "chunked FP32": ChunkedFloat(accumulator=FP32, chunk=NO_CHUNKS),
    }
    for group in groups:
        found[f"aligned, {group}: F 13, 1-8-13, FP32"] = AlignedFloat(FP8, FP8, group)
        found[f"aligned, {group}: F 10, 1-6-9, 1-6-9"] = AlignedFloat(FP8, FP8, group, 10, FP16, 64, FP16)
    return found


def error(arithmetic: Arithmetic, k: int) -> float:
    """Root mean square over the exact sums'."""
    random = np.random.default_rng(1)
    a, b = FP8.encode(random.standard_normal((16, k))), FP8.encode(random.standard_normal((k, 32)))
    exact = FP8.decode(a).astype(np.float64) @ FP8.decode(b).astype(np.float64)
    c = arithmetic.result.decode(arithmetic.gemm(a, b))
    return float(np.sqrt(np.mean((c - exact) ** 2) / np.mean(exact**2)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", type=int, nargs="*", default=[1, 4, 8, 16, 32], metavar="N")
    parser.add_argument("--stages", type=int, default=5)
    parser.add_argument("-k", type=int, default=65536, metavar="K")
    parser.add_argument("--clock", action="store_true", help="place and route for the ECP5 too")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for name, arithmetic in elements(args.groups).items():
        print(f"{name}: synthesis", file=sys.stderr, flush=True)
        group = getattr(arithmetic, "group", 1)
        line: dict[str, Any] = {"element": name, "error": error(arithmetic, args.k)}
        verilog = to_verilog(pe_for(arithmetic, stages=args.stages), "pe")
        line["nand2"] = float(sum(area(gates(verilog, "pe", flat=True)["pe"]))) / group
        with tempfile.TemporaryDirectory() as folder:
            luts, registers = cells(pe_for(arithmetic, stages=args.stages), "ecp5", Path(folder))
            line |= {"lut4": luts / group, "registers": registers / group}
            if args.clock:
                line["mhz"] = clock(pe_for(arithmetic, stages=args.stages), "ecp5", Path(folder), 1)[0]
        print(json.dumps(line), file=sys.stderr, flush=True)
        lines.append(line)
    if args.json:
        print(json.dumps(lines))
        return
    title = f"A multiply-accumulate of one element, {args.stages} stages, on {DEVICES['ecp5']} and in silicon"
    table = Table(title=title)
    for column in ("element", f"error, K {args.k:,}", "LUT4", "ratio", "NAND2", "ratio", "MHz"):
        table.add_column(column, justify="left" if column == "element" else "right")
    first = lines[0]
    for line in lines:
        table.add_row(
            line["element"],
            f"{line['error']:.2e}",
            f"{line['lut4']:.0f}",
            f"{line['lut4'] / first['lut4']:.2f}",
            f"{line['nand2']:.0f}",
            f"{line['nand2'] / first['nand2']:.2f}",
            f"{line['mhz']:.0f}" if "mhz" in line else "",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
