"""The float multiplier: every pair of codes against exact fractions."""

from __future__ import annotations

from functools import cache
from itertools import product
from math import copysign
from typing import Any

import cocotb

from quaver.golden import exact
from quaver.golden.formats import E4M3, FP8
from quaver.rtl.float.multiplier import FloatMultiplier
from quaver.sim.benches.bench import Bench, coded, outputs

VARIANTS = {
    "float_multiplier": lambda: FloatMultiplier(FP8, FP8),
    "float_multiplier 2 stages": lambda: FloatMultiplier(E4M3, FP8, stages=2),
}


def same(x: exact.Exact, y: exact.Exact) -> bool:
    """Equal, NaN to NaN and zeros with their signs."""
    return (x != x and y != y) or (x == y and (x != 0 or copysign(1, x) == copysign(1, y)))


@cocotb.test()
async def every_pair(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        unit = bench.unit
        pairs = list(product(range(1 << unit.a_format.width), range(1 << unit.b_format.width)))
        a, b = zip(*pairs, strict=True)
        a_values, b_values = (
            [exact.decode(fmt, code) for code in range(1 << fmt.width)]
            for fmt in (unit.a_format, unit.b_format)
        )
        decode = cache(unit.unpacked.decode)  # many products are alike
        for (x, y), bits in zip(pairs, await outputs(dut, "product", unit.stages, a=a, b=b), strict=True):
            expected, got = exact.multiply(a_values[x], b_values[y]), decode(bits)
            bench.checks += 1
            if not same(expected, got):
                given = f"a={coded(unit.a_format, x)}, b={coded(unit.b_format, y)}"
                bench.fail(f"{given}: expected {float(expected)!r}, got {bits:#06x} ({float(got)!r})")
