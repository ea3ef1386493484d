"""How busy the array is: cycles counted in simulation, against one multiply-accumulate per element and cycle.

A fold every `chunk` products takes one step of the element's own adder, so chunk / (chunk + 1) is the ceiling
(less where K is short). The steady part is what twice the rows cost more than once; the rest, the first loads
and the last results, is fill and drain.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from quaver.golden.arithmetic import ChunkedFloat
from quaver.golden.formats import FP8, FP16
from quaver.sim.engine import SimulatedEngine

#: Operands, M, K, N.
GEMMS = [
    (FP8, 512, 512, 512),
    (FP8, 256, 4096, 64),
    (FP8, 128, 64, 128),
    (FP8, 128, 16, 128),
    (FP8, 64, 5000, 64),
    (FP16, 256, 512, 256),
]


def measure(engine: SimulatedEngine, arithmetic: ChunkedFloat, m: int, k: int, n: int) -> dict[str, Any]:
    """Cycles of one GEMM, compared with the golden codes."""
    random = np.random.default_rng(0)
    a = arithmetic.operand.encode(random.normal(size=(2 * m, k)))
    b = arithmetic.operand.encode(random.normal(size=(k, n)))

    def cycles(rows: int) -> int:
        before = engine.cycles
        c = engine.gemm(arithmetic, a[:rows], b)
        if not np.array_equal(c, arithmetic.gemm(a[:rows], b)):
            raise SystemExit(f"GEMM {rows} × {k} × {n} differs from the golden model")
        return engine.cycles - before

    cycles(1)  # builds
    once, twice = cycles(m), cycles(2 * m)
    steps = m * k * n / (engine.rows * engine.columns)
    return {
        "operands": str(arithmetic.operand),
        "size": (m, k, n),
        "cycles": once,
        "of_peak": steps / once,
        "steady_of_peak": steps / (twice - once),
        "fill_and_drain": once - (twice - once),
        "ceiling": k / (k + -(-k // arithmetic.chunk)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    console = Console(stderr=True)
    with console.status("") as status:
        engine = SimulatedEngine(options.rows, options.columns, progress=status.update)
        rows = [measure(engine, ChunkedFloat(operand=operand), *size) for operand, *size in GEMMS]
    if options.json:
        print(json.dumps(rows))
        return
    title = (
        f"{options.rows} × {options.columns} elements, chunk 64, every code compared with the golden model"
    )
    table = Table(title=title)
    for header in ("operands", "M × K × N", "cycles", "of peak", "steady", "ceiling", "fill and drain"):
        table.add_column(header, justify="right")
    for row in rows:
        table.add_row(
            row["operands"],
            " × ".join(map(str, row["size"])),
            f"{row['cycles']:,}",
            *(f"{row[key]:.2%}" for key in ("of_peak", "steady_of_peak", "ceiling")),
            f"{row['fill_and_drain']:,} cycles",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
