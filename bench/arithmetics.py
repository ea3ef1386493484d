"""Do bit streams pay? All arithmetics in one table: area of an element, its time, and what a sum is off by.

Area of one processing element on the ECP5 (LUT4 by Yosys without multipliers, two for a carry cell) and for
silicon (NAND2, as bench/gates.py maps); cycles of one multiply-accumulate; the product of both, which is what
a multiply-accumulate costs, against FP8's. With --clock the time is in nanoseconds too, of an element placed
and routed. The error is that of dot products of 1,000 activations behind a ReLU and normal weights, root mean
square over the exact one's: of the sums alone, of operands as they were rounded, and with that rounding. Bit
streams and integers take both operands at full scale. Counters and accumulators hold 1,000 products.

Then an element of bit streams by the width of its counter, and what the generators and comparators at the
edges add to it, by the size of the array: those of a row and a column are measured, and the corner's.

    python bench/arithmetics.py
    python bench/arithmetics.py --only table --clock --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.hdl import Module, Signal, UnusedElaboratable
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from area import DEVICES, cells, clock
from gates import area, gates
from rich.console import Console
from rich.table import Table

from quaver.golden.arithmetic import AlignedFloat, Bitstream, ChunkedFloat, FixedPoint, Integer
from quaver.golden.arithmetic.bitstream import COLUMN_STREAMS, ROW_STREAMS
from quaver.golden.contracts import Arithmetic
from quaver.golden.formats import (
    FP8,
    Format,
    IntegerFormat,
    Levels,
    SignMagnitudeFormat,
)
from quaver.golden.random_bits import Source
from quaver.rtl.array.operand_random import OperandRandom
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.pe import pe_for
from quaver.rtl.pe.bitstream import Stream
from quaver.rtl.random_sources import streams_on

warnings.filterwarnings(
    "ignore", category=UnusedElaboratable
)  # elements that were only asked for their cycles

TERMS = 1000
STAGES = 4
WIDTHS = (8, 12, 16, 20, 24)
SIZES = (1, 2, 4, 8, 16, 32, 64)


def streams(length: int, **parameters: Any) -> Bitstream:
    """Bit streams whose counter holds 1,000 products, and no more."""
    return Bitstream(length=length, accumulator_bits=(TERMS * length).bit_length() + 1, **parameters)


def integers(bits: int) -> Integer:
    return Integer.of(IntegerFormat(bits), IntegerFormat(bits, Levels.ODD), TERMS)


#: What is compared; the first is the reference.
ARITHMETICS: dict[str, Arithmetic] = {
    "FP8 → 1-6-9 in chunks of 64": ChunkedFloat(),
    "fixed point, 16 bits": FixedPoint(),
    "integers, 8 bits": integers(8),
    "integers, 4 bits": integers(4),
    "aligned FP8, 8 at once: F 13, FP32": AlignedFloat(FP8, FP8, 8),
    **{f"bit streams of {n}": streams(n) for n in (16, 256, 1024, 4096)},
    **{f"the same, {n}, van der Corput": streams(n, generator="van_der_corput") for n in (16, 64, 128, 256)},
}


def coded(fmt: Format, values: Any) -> tuple[Any, float]:
    """Codes, and what 1 is worth: formats without an exponent at full scale, but fixed point."""
    if isinstance(fmt, SignMagnitudeFormat):
        scale = float(np.abs(values).max()) / fmt.max_value
        return fmt.encode(values / scale), scale
    if isinstance(fmt, IntegerFormat):
        scale = float(np.abs(values).max()) / fmt.highest
        steps = np.rint((values / scale - fmt.lowest) / fmt.step)
        return fmt.codes((fmt.lowest + fmt.step * steps).astype(np.int64)), scale
    return fmt.encode(values), 1.0


def errors(arithmetic: Arithmetic) -> tuple[float, float]:
    """Of the sums, and with the rounding of the operands."""
    rng = np.random.default_rng(1)
    a, b = np.maximum(rng.standard_normal((16, TERMS)), 0), rng.standard_normal((TERMS, 32))
    (x, of_a), (y, of_b) = coded(arithmetic.a, a), coded(arithmetic.b, b)
    codes = arithmetic.gemm(x, y, seed=3 if arithmetic.stochastic else None)
    c = arithmetic.result.decode(codes).astype(np.float64) * of_a * of_b
    rounded = arithmetic.a.decode(x).astype(np.float64) @ arithmetic.b.decode(y) * of_a * of_b
    norm = np.sqrt(np.mean((a @ b) ** 2))
    return tuple(float(np.sqrt(np.mean((c - exact) ** 2)) / norm) for exact in (rounded, a @ b))  # type: ignore[return-value]


def size(unit: Any) -> dict[str, float]:
    """LUT4, registers and NAND2 of what a function makes."""
    with tempfile.TemporaryDirectory() as folder:
        luts, registers = cells(unit(), "ecp5", Path(folder))
    nand2 = float(sum(area(gates(to_verilog(unit(), "unit"), "unit", flat=True)["unit"])))
    return {"lut4": luts, "registers": registers, "nand2": nand2}


def measure(name: str, with_clock: bool) -> dict[str, Any]:
    """One line of the table."""
    arithmetic = ARITHMETICS[name]
    element = pe_for(arithmetic, stages=STAGES)
    line: dict[str, Any] = {"arithmetic": name, "cycles": element.product_cycles / element.group}
    line |= dict(zip(("sum_error", "error"), errors(arithmetic), strict=True))
    line |= size(lambda: pe_for(arithmetic, stages=STAGES))
    if with_clock:
        with tempfile.TemporaryDirectory() as folder:
            line["mhz"] = clock(pe_for(arithmetic, stages=STAGES), "ecp5", Path(folder), 1)[0]
    return line


class Edge(wiring.Component):
    """What one row or column has at the array's edge: the generator's hop, and the comparator."""

    def __init__(self, stream: Stream, source: Source) -> None:
        self.stream, self.source = stream, source
        ports = {"code": In(stream.format.bits), "starts": In(1), "state": In(32)}
        super().__init__(ports | {"number": Out(stream.number.shape()), "next": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.stream = stream = self.stream
        state = Signal(32, reset_less=True)
        m.d.sync += state.eq(streams_on(self.state, self.source, 1))
        m.d.comb += [
            self.next.eq(state),
            stream.random.eq(state),
            stream.code.eq(self.code),
            stream.begin.eq(self.starts),
            self.number.eq(stream.number),
        ]
        return m


def edges(arithmetic: Bitstream) -> list[dict[str, Any]]:
    """The generators' share, by the size of a square array."""
    element = pe_for(arithmetic, stages=STAGES)
    one = size(lambda: pe_for(arithmetic, stages=STAGES))
    row = size(lambda: Edge(pe_for(arithmetic).entry_a(), ROW_STREAMS))
    column = size(lambda: Edge(pe_for(arithmetic).entry_b(), COLUMN_STREAMS))
    lines = []
    for n in SIZES:
        corner = size(lambda n=n: OperandRandom(n, n, element.draws))  # type: ignore[misc]
        line: dict[str, Any] = {"generator": str(arithmetic.generator), "rows": n, "columns": n}
        for unit in ("lut4", "nand2"):
            outside = corner[unit] + n * (row[unit] + column[unit])
            line |= {f"corner_{unit}": corner[unit], f"row_and_column_{unit}": row[unit] + column[unit]}
            line[f"share_{unit}"] = outside / (outside + n * n * one[unit])
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("table", "widths", "edges"), help="one of the three")
    parser.add_argument("--clock", action="store_true", help="place and route for the ECP5 too")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"table": [], "widths": [], "edges": []}

    def add(part: str, *lines: dict[str, Any]) -> None:
        for line in lines:
            print(json.dumps(line), file=sys.stderr, flush=True)
            found[part].append(line)

    if args.only in (None, "table"):
        for name in ARITHMETICS:
            add("table", measure(name, args.clock))
    if args.only in (None, "widths"):
        for width in WIDTHS:
            arithmetic = Bitstream(length=16, accumulator_bits=width)
            add("widths", {"counter_bits": width} | size(lambda of=arithmetic: pe_for(of)))  # type: ignore[misc]
    if args.only in (None, "edges"):
        for generator in ("lfsr", "van_der_corput"):
            add("edges", *edges(streams(256, generator=generator)))
    if args.json:
        print(json.dumps(found))
        return
    show(found)


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    console = Console(width=max(130, Console().width))
    if lines := found["table"]:
        table = Table(title=f"One element, {STAGES} stages, and a dot product of {TERMS:,} terms")
        headings = ("cycles", "LUT4", "× cycles", "ratio", "NAND2", "× cycles", "ratio")
        table.add_column("arithmetic")
        for heading in (*headings, *(("MHz", "LUT4·ns") if "mhz" in lines[0] else ()), "sums", "all"):
            table.add_column(heading, justify="right")
        for line in lines:
            cells = [f"{line['cycles']:g}"]
            for unit in ("lut4", "nand2"):
                cost = [each[unit] * each["cycles"] for each in (line, lines[0])]
                cells += [f"{line[unit]:,.0f}", f"{cost[0]:,.0f}", f"{cost[0] / cost[1]:.2f}"]
            if "mhz" in line:
                cost_ns = line["lut4"] * line["cycles"] * 1e3 / line["mhz"]
                cells += [f"{line['mhz']:.0f}", f"{cost_ns:,.0f}"]
            table.add_row(line["arithmetic"], *cells, f"{line['sum_error']:.1e}", f"{line['error']:.1e}")
        console.print(table)
    if lines := found["widths"]:
        table = Table("counter, bits", "LUT4", "registers", "NAND2", title="An element of bit streams")
        for line in lines:
            row = (line["counter_bits"], line["lut4"], line["registers"], round(line["nand2"]))
            table.add_row(*map(str, row))
        console.print(table)
    if lines := found["edges"]:
        table = Table(
            title=f"Generators and comparators, streams of 256, on {DEVICES['ecp5']} and in silicon"
        )
        for heading in (
            "generator",
            "array",
            "corner LUT4",
            "row + column LUT4",
            "share",
            "NAND2",
            "NAND2",
            "share",
        ):
            table.add_column(heading, justify="left" if heading == "generator" else "right")
        for line in lines:
            row = [line["generator"], f"{line['rows']}×{line['columns']}"]
            for unit in ("lut4", "nand2"):
                row += [f"{line[f'corner_{unit}']:,.0f}", f"{line[f'row_and_column_{unit}']:,.0f}"]
                row.append(f"{line[f'share_{unit}']:.0%}")
            table.add_row(*row)
        console.print(table)


if __name__ == "__main__":
    main()
