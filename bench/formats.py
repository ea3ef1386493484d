"""Encode and decode, million elements a second, against ml_dtypes and NumPy's float16 in the same run.

Each repetition times both, one after the other, so that a busy machine slows both; medians are reported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from quaver.golden.formats import BFLOAT16, E4M3, FP8, FP16, FP32, HALF, FloatFormat
from quaver.golden.lfsr import LFSR

ELSEWHERE = {
    FP8: ("ml_dtypes", ml_dtypes.float8_e5m2),
    E4M3: ("ml_dtypes", ml_dtypes.float8_e4m3fn),
    BFLOAT16: ("ml_dtypes", ml_dtypes.bfloat16),
    HALF: ("numpy", np.float16),
    FP16: (None, None),
    FloatFormat(6, 12): (None, None),
    FP32: ("numpy", np.float32),
}


def medians(work: list[Callable[[], Any] | None], repeats: int) -> list[float | None]:
    """Seconds of each, the median of `repeats` rounds after one to warm up."""
    times: list[list[float]] = [[] for _ in work]
    for _ in range(repeats + 1):
        for one, taken in zip(work, times, strict=True):
            if one is not None:
                start = time.perf_counter()
                one()
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken[1:]) if taken else None for taken in times]


def measure(count: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each format, operation and type of values."""
    x32 = np.random.default_rng(1).standard_normal(count, np.float32)
    random = LFSR(1).draws(count, 16)
    rows = []
    for fmt, (name, other) in ELSEWHERE.items():
        codes = fmt.encode(x32)
        theirs = None if other is None else codes.view(other)
        work: list[tuple[str, str, Callable[[], Any], Callable[[], Any] | None]] = [
            (
                "decode",
                "float32",
                lambda f=fmt, c=codes: f.decode(c),
                other and (lambda t=theirs: t.astype(np.float32)),
            )
        ]
        for x in (x32, x32.astype(np.float64)):
            values = str(x.dtype)
            their_encode = other and (lambda x=x, o=other: x.astype(o))
            work += [
                ("nearest", values, lambda f=fmt, x=x: f.encode(x), their_encode),
                ("truncate", values, lambda f=fmt, x=x: f.encode(x, "truncate"), None),
                ("stochastic", values, lambda f=fmt, x=x: f.encode(x, "stochastic", random=random), None),
            ]
        for operation, values, ours, reference in work:
            mine, his = medians([ours, reference], repeats)
            assert mine is not None
            row = {"format": str(fmt), "operation": operation, "values": values, "M/s": count / mine / 1e6}
            if his is not None:
                row |= {"reference": name, "reference M/s": count / his / 1e6, "ratio": his / mine}
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1 << 20, help="elements an array (default 2**20)")
    parser.add_argument("--repeats", type=int, default=9, help="timed repetitions (default 9)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = measure(options.count, options.repeats)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(
        title=f"Encode and decode {options.count:,} elements, medians of {options.repeats}", box=SIMPLE
    )
    for heading in ("format", "operation", "values"):
        table.add_column(heading)
    for heading in ("million/s", "reference", "million/s", "ratio"):
        table.add_column(heading, justify="right")
    for row in rows:
        reference = ("", "", "")
        if "ratio" in row:
            reference = (row["reference"], f"{row['reference M/s']:,.0f}", f"{row['ratio']:.1f} ×")
        table.add_row(row["format"], row["operation"], row["values"], f"{row['M/s']:,.0f}", *reference)
    Console().print(table)


if __name__ == "__main__":
    main()
