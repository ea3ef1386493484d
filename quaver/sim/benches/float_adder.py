"""The float adder: every alignment, rounding case and special against exact fractions."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from numpy.typing import NDArray

from quaver.golden import exact
from quaver.golden.formats import FP16, FloatFormat
from quaver.golden.rounding import Rounding
from quaver.rtl.float.adder import FloatAdder
from quaver.sim.benches.bench import Bench, coded, outputs
from quaver.sim.coverage import AdderCoverage

VARIANTS = {
    "float_adder": lambda: FloatAdder(FP16),
    "float_adder stochastic": lambda: FloatAdder(FP16, rounding=Rounding.STOCHASTIC),
    "float_adder 3 stages": lambda: FloatAdder(FP16, stages=3),
}

Codes = NDArray[np.int64]


def mantissas(fmt: FloatFormat, rng: np.random.Generator, count: int) -> Codes:
    """Mantissas of which most lie where rounding, carries and cancellation turn: few ones, few zeros."""
    top = 1 << fmt.mantissa_bits
    low = 1 << rng.integers(0, fmt.mantissa_bits, count)
    kinds = [0 * low, low, low - 1, top - low, top - 1 - low, top - 1 + 0 * low, rng.integers(0, top, count)]
    return np.choose(rng.integers(0, len(kinds), count), kinds)


def pairs(
    fmt: FloatFormat, rng: np.random.Generator, each: int = 80, random_bits: int = 0
) -> tuple[Codes, Codes]:
    """Operands a and b of additions: `each` for every distance of the exponents, in each of the four signs.

    Distances are those at which the smaller operand is more than a sticky bit, beside `random_bits` that are
    added to it. Besides those: every special with every special, neighbours that cancel, subnormals, and
    any codes at all.
    """
    m, exponents = fmt.mantissa_bits, fmt.max_code >> fmt.mantissa_bits
    near = np.repeat(np.arange(min(fmt.precision + 4 + random_bits, exponents)), 4 * each)
    far = rng.integers(0, exponents, 8 * each)
    distance = np.concatenate([near, far])
    larger = rng.integers(distance + 1, exponents + 1)
    edge = rng.integers(0, 6, len(distance))
    larger = np.where(edge == 0, distance + 1, np.where(edge == 1, exponents, larger))
    big = (larger << m) + mantissas(fmt, rng, len(distance))
    # Every other smaller operand ends where the rounding of its sum cuts: in a tie, or exactly.
    cut = np.clip(distance + rng.integers(-1, 2, len(distance)), 0, m)
    ending = (rng.integers(0, 1 << m, len(distance)) >> cut << cut) | (
        (1 << cut >> 1) * rng.integers(0, 2, len(distance))
    )
    small_mantissa = np.where(rng.integers(0, 2, len(distance)), ending, mantissas(fmt, rng, len(distance)))
    small = ((larger - distance) << m) + small_mantissa
    aligned = np.stack([big, small])
    aligned += fmt.sign_code * np.stack([np.arange(len(distance)) & 1, np.arange(len(distance)) >> 1 & 1])

    top = fmt.max_code
    unsigned = [0, 1, (1 << m) - 1, 1 << m, (1 << m) + 1, 1 << (fmt.width - 3), top - 1, top]
    if fmt.infinity_code is not None:
        unsigned += [fmt.infinity_code, fmt.infinity_code + 1]
    unsigned += [fmt.nan_code, fmt.sign_code - 1]
    special = np.array([code | sign for code in unsigned for sign in (0, fmt.sign_code)])
    specials = np.stack([g.ravel() for g in np.meshgrid(special, special)])

    first = rng.integers(0, top + 1, 8 * each)
    second = np.clip(first + rng.integers(-3, 4, 8 * each), 0, top)
    cancelling = np.stack([first, second | fmt.sign_code])
    small = rng.integers(0, 3 << m, (2, 4 * each)) | fmt.sign_code * rng.integers(0, 2, (2, 4 * each))
    anything = rng.integers(0, 1 << fmt.width, (2, 20 * each))

    binade = np.arange(2, exponents) << m  # cancellation across the binade's foot: every bit is lost but one
    deepest = np.stack([binade, binade - rng.integers(1, 3, len(binade)) | fmt.sign_code])
    half_ulp = (exponents - fmt.precision) << m  # of the largest finite value: rounding alone overflows
    rounds_over = np.tile([[top, top | fmt.sign_code], [half_ulp, half_ulp | fmt.sign_code]], 8)
    both = np.concatenate([aligned, deepest, rounds_over, cancelling, small, anything], axis=1)
    both = np.where(rng.integers(0, 2, both.shape[1]), both, both[::-1])
    a, b = np.concatenate([both, specials], axis=1)
    return a, b


def randoms(bits: int, rng: np.random.Generator, count: int) -> Codes:
    """Random bits for `count` sums, half of them next to where a short dropped part begins to round up."""
    whole = 1 << bits
    kept = rng.integers(1, bits, count)
    edge = (rng.integers(0, whole, count) >> kept << kept) - rng.integers(0, 2, count)
    kinds = [rng.integers(0, whole, count), edge % whole, edge % whole, 0 * edge, 0 * edge + whole - 1]
    return np.choose(rng.integers(0, len(kinds), count), kinds)


@cocotb.test()
async def every_case(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        unit, fmt = bench.unit, bench.unit.format
        stochastic = unit.rounding is Rounding.STOCHASTIC
        a, b = pairs(fmt, bench.rng, random_bits=unit.random_bits * stochastic)
        inputs = {"a": a.tolist(), "b": b.tolist()}
        random = np.zeros(len(a), np.int64)
        if stochastic:
            random = randoms(unit.random_bits, bench.rng, len(a))
            inputs["random"] = random.tolist()
        sums = await outputs(dut, "sum", unit.stages, **inputs)
        coverage = AdderCoverage(fmt, unit.rounding, unit.random_bits)
        for x, y, r, got in zip(a.tolist(), b.tolist(), random.tolist(), sums, strict=True):
            total = exact.add(exact.decode(fmt, x), exact.decode(fmt, y))
            expected = exact.encode(fmt, total, unit.rounding, r, unit.random_bits)
            bench.equal(expected, got, fmt, a=coded(fmt, x), b=coded(fmt, y), random=r)
            coverage.sample(x, y, r)
        bench.cover(coverage)
