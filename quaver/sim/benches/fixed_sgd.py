"""The fixed-point update: codes of every class against the golden one, while both streams stall at random."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from numpy.typing import NDArray

from quaver.golden.formats import FixedFormat
from quaver.golden.update.fixed_sgd import SCALAR, FixedSGD
from quaver.rtl.update.fixed_sgd import FixedSGDUnit
from quaver.sim.benches.bench import Bench
from quaver.sim.benches.float_sgd import INPUTS, OUTPUTS, hold
from quaver.sim.coverage import FIXED_CLASSES, Coverage

_Q4_16 = FixedFormat(4, 16)
VARIANTS = {
    "fixed_sgd": lambda: FixedSGDUnit(FixedFormat(4, 12), FixedFormat(4, 12), FixedFormat(2, 14)),
    "fixed_sgd nearest": lambda: FixedSGDUnit(
        FixedFormat(8, 8), FixedFormat(2, 14), FixedFormat(2, 14), rounding="nearest"
    ),
    "fixed_sgd of 20 bits": lambda: FixedSGDUnit(_Q4_16, _Q4_16, FixedFormat(2, 18), random_bits=7),
}
#: Rate, momentum, decay and number of elements of each run.
RUNS = ((0.05, 0.9, 0.001, 2000), (0.0, 0.5, 0.0, 1), (SCALAR.max_value, SCALAR.max_value, 1.0, 2000))


def codes(fmt: FixedFormat, rng: np.random.Generator, count: int) -> NDArray[Any]:
    """`count` codes: any at all, such as training has, and the ends, zero and their neighbours."""
    top = fmt.max_code
    kinds = [
        fmt.codes(rng.integers(~top, top + 1, count)),
        fmt.encode(rng.normal(0, 0.01, count)),
        fmt.codes(rng.choice([~top, ~top + 1, -1, 0, 1, top - 1, top], count)),
    ]
    return np.choose(rng.choice(3, count, p=(0.3, 0.5, 0.2)), kinds).astype(fmt.code_dtype)


@cocotb.test()
async def runs(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        unit, chosen = bench.unit, []
        for rate, momentum, decay, count in RUNS:
            how = unit.rounding, unit.random_bits
            rule = FixedSGD(rate, momentum, decay, unit.weights, unit.updates, unit.gradients, *how)
            chosen.append((rule, [codes(fmt, bench.rng, count) for fmt in unit.formats]))
        await hold(dut, bench, chosen, Coverage(dict.fromkeys(INPUTS + OUTPUTS, FIXED_CLASSES)))
