"""How busy the array is: cycles counted in simulation, against one multiply-accumulate per element and cycle,
or one in as many cycles as a product takes.

A fold every `chunk` products takes as long as a product, so chunk / (chunk + 1) is the ceiling (less where K
is short). The steady part is what twice the rows cost more than once; the rest, the first loads
and the last results, is fill and drain.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from quaver.golden.arithmetic.named import named
from quaver.sim.engine import SimulatedEngine

#: Arithmetic, M, K, N.
GEMMS = [
    ("fp8", 512, 512, 512),
    ("fp8", 256, 4096, 64),
    ("fp8", 128, 64, 128),
    ("fp8", 128, 16, 128),
    ("fp8", 64, 5000, 64),
    ("chunked_float(operand=fp16)", 256, 512, 256),
    ("bitstream(length=16)", 64, 512, 64),
    ("bitstream(length=64)", 64, 16, 64),
]


def measure(engine: SimulatedEngine, name: str, m: int, k: int, n: int) -> dict[str, Any]:
    """Cycles of one GEMM, compared with the golden codes."""
    random, arithmetic = np.random.default_rng(0), named(name)
    seed = 1 if arithmetic.stochastic else None
    a = arithmetic.a.encode(random.normal(size=(2 * m, k)))
    b = arithmetic.b.encode(random.normal(size=(k, n)))

    def cycles(rows: int) -> int:
        before = engine.cycles
        c = engine.gemm(arithmetic, a[:rows], b, seed=seed)
        if not np.array_equal(c, arithmetic.gemm(a[:rows], b, seed=seed)):
            raise SystemExit(f"GEMM {rows} × {k} × {n} differs from the golden model")
        return engine.cycles - before

    cycles(1)  # builds
    once, twice = cycles(m), cycles(2 * m)
    geometry = engine.driver(arithmetic).geometry
    each = geometry.product_cycles / geometry.group
    steps = m * k * n / (engine.rows * engine.columns) * each
    return {
        "arithmetic": name,
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
    parser.add_argument(
        "--only", nargs="+", default=[name for name, *_ in GEMMS], help="of these arithmetics"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    console = Console(stderr=True)
    with console.status("") as status:
        engine = SimulatedEngine(options.rows, options.columns, progress=status.update)
        rows = [measure(engine, *gemm) for gemm in GEMMS if gemm[0] in options.only]
    if options.json:
        print(json.dumps(rows))
        return
    title = f"{options.rows} × {options.columns} elements, every code compared with the golden model"
    table = Table(title=title)
    for header in ("arithmetic", "M × K × N", "cycles", "of peak", "steady", "ceiling", "fill and drain"):
        table.add_column(header, justify="right")
    for row in rows:
        table.add_row(
            row["arithmetic"],
            " × ".join(map(str, row["size"])),
            f"{row['cycles']:,}",
            *(f"{row[key]:.2%}" for key in ("of_peak", "steady_of_peak", "ceiling")),
            f"{row['fill_and_drain']:,} cycles",
        )
    Console(width=max(120, Console().width)).print(table)


if __name__ == "__main__":
    main()
