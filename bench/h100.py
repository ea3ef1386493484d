"""What tensor cores compute: `AlignedFloat` against the answers of a real H100, array by array.

The file is an npz of products that an H100 80 GB computed (torch 2.11, CUDA 13): FP8 by torch._scaled_mm with
unit scales and float32 out, with and without use_fast_accum, of bf16 and fp16 by torch.mm with float32 out.
Its arrays are TA_TB_K_KIND_a (M, K) and _b (N, K), codes of e4m3 or e5m2, with _fast and _exact (M, N),
float32; and bf16_K_KIND_a (M, K), _b (K, N), with _c. Exit status 1: a value differs.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from quaver.golden.arithmetic.named import named
from quaver.golden.contracts import Arithmetic, Codes

FORMATS = {"e4m3": "e4m3", "e5m2": "fp8"}


def products(file: Path) -> Iterator[tuple[str, Arithmetic, Codes, Codes, Codes]]:
    """Each product's name, arithmetic, operand codes, and the codes that the H100 made of them."""
    with np.load(file) as arrays:
        for key in arrays.files:
            name, _, ending = key.rpartition("_")
            kinds = name.split("_")
            if ending == "c":
                a, b = (arrays[f"{name}_{x}"].view(np.uint16) for x in "ab")
                arithmetic = named(f"hopper_{kinds[0]}")
            elif ending in ("fast", "exact"):
                a, b = arrays[f"{name}_a"], np.ascontiguousarray(arrays[f"{name}_b"].T)
                preset = "hopper_fp8_fast" if ending == "fast" else "hopper_fp8"
                arithmetic = named(f"{preset}(a={FORMATS[kinds[0]]}, b={FORMATS[kinds[1]]})")
            else:
                continue
            yield key, arithmetic, a, b, arrays[key].view(np.uint32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="h100_mma.npz")
    parser.add_argument("--every", action="store_true", help="a line for each array")
    args = parser.parse_args()
    if not args.file.is_file():
        parser.error(f"FILE is {args.file}, but there is no such file")
    arrays, values, wrong = Counter[str](), Counter[str](), Counter[str]()
    for name, arithmetic, a, b, expected in products(args.file):
        differ = int(np.count_nonzero(arithmetic.gemm(a, b) != expected))
        parts = name.split("_")
        of = f"{' × '.join(parts[:2])}, {parts[-1]}" if len(parts) == 5 else parts[0]
        row = name if args.every else of
        arrays[row] += 1
        values[row] += expected.size
        wrong[row] += differ
    table = Table(title="AlignedFloat against an H100")
    for column in ("products", "arrays", "values", "mismatches"):
        table.add_column(column, justify="left" if column == "products" else "right")
    for row in arrays:
        table.add_row(row, f"{arrays[row]}", f"{values[row]:,}", f"{wrong[row]}")
    table.add_section()
    table.add_row("all", f"{arrays.total()}", f"{values.total():,}", f"{wrong.total()}")
    Console().print(table)
    sys.exit(wrong.total() > 0 or not values)


if __name__ == "__main__":
    main()
