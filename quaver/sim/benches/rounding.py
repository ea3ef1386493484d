"""The rounding unit: exact bits against the definition, and no bias where rounding is stochastic."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np

from quaver.golden.lfsr import LFSR
from quaver.golden.rounding import Rounding as RoundingMode
from quaver.golden.rounding import round_magnitude
from quaver.rtl.rounding import Rounding
from quaver.sim.benches.bench import Bench, outputs

VARIANTS = {
    "rounding": lambda: Rounding(14, 5),
    "rounding truncate": lambda: Rounding(12, 3, RoundingMode.TOWARD_ZERO),
    "rounding stochastic": lambda: Rounding(14, 6, RoundingMode.STOCHASTIC, random_bits=16),
    "rounding stochastic, short random": lambda: Rounding(14, 9, RoundingMode.STOCHASTIC, random_bits=4),
}
#: Draws for each magnitude where rounding is stochastic.
DRAWS = 4


def cases(unit: Rounding, seed: int) -> tuple[list[int], list[int]]:
    """Magnitudes and random bits: every magnitude, with `DRAWS` of an LFSR where rounding is stochastic, and
    then with each end of what may be drawn."""
    every = list(range(1 << unit.width))
    if unit.rounding is not RoundingMode.STOCHASTIC:
        return every, [0] * len(every)
    magnitudes = np.repeat(every, DRAWS).tolist()
    random = LFSR(seed).draws(len(magnitudes), unit.random_bits).tolist()
    for end in (0, (1 << unit.random_bits) - 1):
        magnitudes += every
        random += [end] * len(every)
    return magnitudes, random


@cocotb.test()
async def every_magnitude(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        unit = bench.unit
        stochastic = unit.rounding is RoundingMode.STOCHASTIC
        magnitudes, random = cases(unit, bench.seed)
        inputs = {"magnitude": magnitudes} | ({"random": random} if stochastic else {})
        rounded = await outputs(dut, "rounded", 0, **inputs)
        for x, r, got in zip(magnitudes, random, rounded, strict=True):
            expected = round_magnitude(x, unit.dropped_bits, unit.rounding, r, unit.random_bits)
            bench.equal(expected, got, magnitude=x, random=r)
        if stochastic:
            drawn = DRAWS << unit.width
            _unbiased(bench, np.array(magnitudes[:drawn]), np.array(rounded[:drawn]))


def _unbiased(bench: Bench, magnitudes: np.ndarray, rounded: np.ndarray) -> None:
    """The mean error is zero within its sampling error, once the bits below the random ones are cut off."""
    unit = bench.unit
    cut = max(unit.dropped_bits - unit.random_bits, 0)
    exact = (magnitudes >> cut << cut) / (1 << unit.dropped_bits)
    fraction = exact % 1
    mean = float(np.mean(rounded - exact))
    sampling = float(np.sqrt(np.sum(fraction * (1 - fraction))) / len(exact))
    bench.figures |= {"mean error, ulp": mean, "its sampling error, ulp": sampling}
    bench.checks += 1
    if abs(mean) > 4 * sampling:
        bench.fail(f"mean error {mean:.2e} ulp, but unbiased rounding stays within 4 · {sampling:.2e}")
