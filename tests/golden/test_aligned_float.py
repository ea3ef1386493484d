"""Aligned accumulation: an H100's answers, the definition class by class, and the kernel against both."""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from h100_answers import PRODUCTS, Product
from hypothesis import given, settings
from hypothesis import strategies as st

from quaver.golden import exact
from quaver.golden.arithmetic import ARITHMETICS, AlignedFloat
from quaver.golden.arithmetic.aligned_float import E8M13
from quaver.golden.arithmetic.chunked_float import NO_CHUNKS
from quaver.golden.arithmetic.named import TENSOR_CORES, named
from quaver.golden.formats import BFLOAT16, DLFLOAT, E4M3, FP8, FP16, FP32, HALF, FloatFormat
from quaver.golden.kernels.aligned import plan

#: The whole file of an H100's answers, where there is one: `bench/h100.py` describes it.
H100 = "QUAVER_H100"


def test_every_product_of_an_h100_is_represented() -> None:
    kinds = ("normal", "wide", "cancel", "sparse")
    narrow = itertools.product(("e4m3_e4m3", "e5m2_e4m3", "e4m3_e5m2"), (32, 64, 128, 512), kinds)
    wide = itertools.product(("bf16", "fp16"), (16, 32, 128, 512), kinds)
    names = {"_".join(map(str, parts)) for parts in (*narrow, *wide)}
    assert {product.name for product in PRODUCTS} == names
    assert sum(len(product.answers) for product in PRODUCTS) == 128


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
def test_an_h100_answers_the_same(product: Product) -> None:
    a, b = product.a, product.b
    for name, answers in product.answers.items():
        np.testing.assert_array_equal(named(name).gemm(a, b), answers)
        np.testing.assert_array_equal(named(name).definition(a[:1], b[:, :1]), answers[:1, :1])


def told(units: tuple[str, ...], change: dict[str, object]) -> int:
    """Answers that presets of `units` do not give with a change."""
    return sum(
        int(np.count_nonzero(replace(named(name), **change).gemm(product.a, product.b) != answers))
        for product in PRODUCTS
        for name, answers in product.answers.items()
        if name.startswith(units)
    )


@pytest.mark.parametrize(
    ("units", "change", "least"),
    [
        *(
            (("hopper_fp8",), change, 100)
            for change in (
                {"fraction_bits": 14},
                {"fraction_bits": 14, "accumulator": FloatFormat(8, 14)},
                {"fraction_bits": 12, "accumulator": FloatFormat(8, 12)},
                {"group": 16},
                {"group": 64},
                {"aligning": "nearest"},
                {"rounding": "nearest"},
            )
        ),
        *(
            (("hopper_bf16", "hopper_fp16"), change, 50)
            for change in (
                {"fraction_bits": 24},
                {"fraction_bits": 26},
                {"group": 8},
                {"group": 32},
                {"aligning": "nearest"},
                {"rounding": "nearest"},
            )
        ),
        (("hopper_fp8(",), {"chunk": 64}, 12),
        (("hopper_fp8(",), {"chunk": 256}, 12),
        (("hopper_fp8(",), {"chunk": NO_CHUNKS}, 12),
        (("hopper_fp8(",), {"total_rounding": "truncate"}, 1),
        (("hopper_fp8_fast",), {"chunk": 128}, 12),
    ],
    ids=str,
)
def test_the_answers_tell_this_unit_from_others(
    units: tuple[str, ...], change: dict[str, object], least: int
) -> None:
    assert told(units, change) >= least


@pytest.mark.skipif(H100 not in os.environ, reason=f"{H100} names no file of an H100's answers")
def test_all_of_an_h100s_answers() -> None:
    bench = Path(__file__).parents[2] / "bench/h100.py"
    done = subprocess.run(
        [sys.executable, bench, os.environ[H100]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The definition, class by class, on values. A product of (1,8,7) numbers can have any exponent.


E8M3 = FloatFormat(8, 3)
INF = math.inf


def code(fmt: FloatFormat, value: float) -> int:
    found = exact.encode(fmt, Fraction(value) if math.isfinite(value) and value else value)
    assert exact.decode(fmt, found) == value or math.isnan(value)
    return found


def summed(products: list[tuple[float, float]], before: float = 0.0, **changes: object) -> float:
    """One step of a unit of 4 fraction bits with an accumulator of (1,8,3)."""
    arithmetic = AlignedFloat(BFLOAT16, BFLOAT16, 8, 4, E8M3, 8)
    arithmetic = replace(arithmetic, **changes)
    codes = [(code(BFLOAT16, a), code(BFLOAT16, b)) for a, b in products]
    return float(exact.decode(arithmetic.accumulator, arithmetic.fused(code(E8M3, before), codes)))


@pytest.mark.parametrize(
    ("products", "before", "truncated"),
    [
        # Alignment: the step is 2**(e − 4).
        ([(1, 1), (1, 2**-4)], 0, 1 + 2**-4 - 2**-4),  # kept by the alignment, cut by the accumulator
        ([(1, 1), (1, 2**-4), (1, 2**-4)], 0, 1 + 2**-3),  # two of them reach its last bit
        ([(1, 1), (1, 1.75 * 2**-5), (1, 1.75 * 2**-5)], 0, 1),  # each is cut before they are added
        ([(1, 1), (-1, 1.75 * 2**-5)], 0, 1),  # toward zero on either side of it
        ([(1, 1)], 1.75 * 2**-5, 1),  # the sum is aligned too
        ([(1, 1.75 * 2**-5)], 1, 1),  # and is what is aligned to
        # A product is not normalised: 1.75 · 1.75 is 3.0625 with the exponent 0, and keeps 2**-4.
        ([(1.75, 1.75), (1, 2**-4)], 0, 3.0),
        ([(1.75, 1.75), (1, 2**-4), (1, 2**-4), (1, 2**-4)], 0, 3.25),
        ([(1.75, 1.75), (2, 2**-6)], 0, 3.0),
        # Normalisation: to the left after a cancellation, to the right after a carry.
        ([(1, 1), (-1, 1 - 2**-4)], 0, 2**-4),
        ([(1.875, 1), (1.875, 1), (1, 2**-4)], 0, 3.75),
        ([(1, 1)] * 8, 15, 22),  # 23 has five bits
        # Zeros.
        ([(0, 1), (-1, 0)], -0.0, 0),
        ([(1, 1), (-1, 1)], 0, 0),
        ([(1, 0), (0, 3)], 1.5, 1.5),
        ([(-1, 1.75 * 2**-20)], 0, -1.75 * 2**-20),  # alone it is the largest
        # Specials.
        ([(INF, 1), (1, 1)], 0, INF),
        ([(INF, -1)], 5, -INF),
        ([(1, 1)], -INF, -INF),
        ([(INF, 1)], INF, INF),
        # Overflow is infinity, and what is truncated to the largest value is not.
        ([(2.0**127, 1)], 1.875 * 2**127, INF),
        ([(-(2.0**127), 1)], -1.875 * 2**127, -INF),
        ([(2.0**123, 1)], 1.875 * 2**127, 1.875 * 2**127),
        # Subnormal sums, whose exponent is the least.
        ([(2.0**-64, 2.0**-64)], 0, 2.0**-128),
        ([(2.0**-64, 1.75 * 2.0**-65)], 0, 2.0**-129),
        ([(2.0**-70, 2.0**-70)], 0, 0),
        ([(2.0**-65, 2.0**-65)], 2.0**-129, 2.0**-129),
        ([(2.0**-65, 2.0**-65), (2.0**-65, 2.0**-65)], 2.0**-129, 2.0**-128),
    ],
)
def test_a_step(products: list[tuple[float, float]], before: float, truncated: float) -> None:
    got = summed(products, before)
    assert got == truncated
    if got == 0:
        assert math.copysign(1, got) == 1, "a sum of zero is +0"
    mirrored = summed([(-a, b) for a, b in products], -before)
    assert mirrored == -truncated


def test_nan_and_infinities_of_both_signs() -> None:
    for products, before in (
        ([(INF, 0)], 0),
        ([(INF, 1), (-INF, 1)], 0),
        ([(-INF, 1)], INF),
        ([(math.nan, 0)], 1),
        ([(1, 1)], math.nan),
    ):
        assert math.isnan(summed(products, before))


@pytest.mark.parametrize(
    ("products", "before", "nearest"),
    [
        ([(1, 1), (1, 2**-5)], 0, 1),  # a tie in the alignment goes to the even step
        ([(1, 1), (1, 3 * 2**-5)], 0, 1.125),  # here up; the accumulator is even there
        ([(1, 1), (1, 1.25 * 2**-5), (1, 1.25 * 2**-5)], 0, 1.125),
        ([(1, 1)] * 8, 15, 24),  # a tie in the accumulator
        ([(2.0**123, 1)], 1.875 * 2**127, INF),  # that carries beyond the largest value
        ([(2.0**-64, 1.5 * 2.0**-65)], 0, 2 * 2.0**-129),  # a tie between subnormals
        ([(2.0**-65, 1.5 * 2.0**-65)], 0, 2.0**-129),
    ],
)
def test_a_step_to_nearest(products: list[tuple[float, float]], before: float, nearest: float) -> None:
    assert summed(products, before, aligning="nearest", rounding="nearest") == nearest


def test_a_group_of_zeros_changes_no_sum() -> None:
    arithmetic = AlignedFloat(fraction_bits=3, accumulator=FloatFormat(4, 3), group=4, chunk=4)
    bubble = [arithmetic.identity] * 4
    for partial in range(1 << arithmetic.accumulator.width):
        value = exact.decode(arithmetic.accumulator, partial)
        expected = exact.encode(arithmetic.accumulator, value if value else 0.0)
        for rounding in AlignedFloat.ROUNDINGS:
            rounded = replace(arithmetic, rounding=rounding, aligning=rounding)
            assert rounded.fused(partial, bubble) == expected


# The kernel against the definition.

OPERANDS = [
    *(
        E4M3,
        FP8,
        HALF,
        BFLOAT16,
        FP16,
        DLFLOAT,
        FloatFormat(4, 3),
        FloatFormat(2, 1),
        FloatFormat(3, 2, bias=60),
    ),
    FloatFormat(7, 2, bias=200),
]
UNITS = st.builds(
    lambda a, b, group, groups, acc, more, total, roundings: AlignedFloat(
        a, b, group, acc.mantissa_bits + more, acc, group * groups, total, *roundings
    ),
    st.sampled_from(OPERANDS),
    st.sampled_from(OPERANDS),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from([E8M13, FP32, FP16, FloatFormat(4, 2), FloatFormat(3, 1), FloatFormat(9, 5, bias=100)]),
    st.integers(0, 22),
    st.sampled_from([FP32, FP16, E8M13, DLFLOAT, E4M3, FloatFormat(3, 2)]),
    st.tuples(*[st.sampled_from(AlignedFloat.ROUNDINGS)] * 3),
)


def codes(fmt: FloatFormat, kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Operand codes: of ordinary numbers, of any, of any finite, near the bottom, mostly zero, or a little
    below 2 and a few of them above 1."""
    if kind == "normal":
        return fmt.encode(rng.standard_normal(shape))
    found = rng.integers(0, 1 << fmt.width, shape)
    magnitude = found & (fmt.sign_code - 1)
    if kind == "finite":
        found = np.where(magnitude <= fmt.max_code, found, 0)
    if kind == "full":
        below = rng.integers(0, 4, shape) * (rng.random(shape) < 0.9) + (rng.random(shape) < 0.05) * magnitude
        return (fmt.encode(np.float32(2)) - 1 - below % (1 << fmt.mantissa_bits)).astype(fmt.code_dtype)
    if kind == "low":
        found &= fmt.sign_code | (4 << fmt.mantissa_bits) - 1
    if kind == "sparse":
        found = np.where((rng.random(shape) < 0.2) & (magnitude <= fmt.max_code), found, fmt.sign_code)
    return found.astype(fmt.code_dtype)


KINDS = st.sampled_from(["normal", "any", "finite", "low", "sparse"])


@settings(max_examples=15, deadline=None, derandomize=True)  # each compiles a kernel
@given(UNITS, KINDS, KINDS, st.integers(0, 30), st.integers(0, 1 << 30))
def test_the_kernel_equals_the_definition(
    unit: AlignedFloat, of_a: str, of_b: str, products: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = codes(unit.a, of_a, (3, products), rng), codes(unit.b, of_b, (products, 4), rng)
    np.testing.assert_array_equal(unit.gemm(a, b), unit.definition(a, b))


@pytest.mark.parametrize("name", TENSOR_CORES)
def test_tensor_cores_equal_their_definitions(name: str) -> None:
    unit = named(name)
    rng = np.random.default_rng(18)
    plans = set()
    for kind in ("normal", "any", "finite", "low", "sparse"):
        a, b = codes(unit.a, kind, (2, 300), rng), codes(unit.b, kind, (300, 3), rng)
        np.testing.assert_array_equal(unit.gemm(a, b), unit.definition(a, b))
        plans.add(plan(unit, a, b))
    assert len(plans) > 1


def test_the_sum_before_takes_a_bit_more_than_the_products() -> None:
    # 32 products a little below 4 are just below 2**24 steps; with the sum before them they are above, where
    # a float32 has no odd integers and would round before the accumulator truncates.
    unit = AlignedFloat(HALF, HALF, 32, 17, FloatFormat(8, 17), 64)
    rng = np.random.default_rng(22)
    a, b = np.full((1, 64), 2 - 2**-10), np.full((64, 400), 2 - 2**-10)
    a[0, :32], b[:32] = 1, 0
    b[0], b[1] = 1 + rng.random(400), rng.random(400) / 1024  # the sum before: 17 bits below 2
    a[0, 32:] -= rng.integers(0, 4, 32) / 1024
    b[32:] -= rng.integers(0, 4, (32, 400)) / 1024
    a, b = HALF.encode(a), HALF.encode(b)
    np.testing.assert_array_equal(unit.gemm(a, b), unit.definition(a, b))


@pytest.mark.parametrize(("exponent", "other"), [(200, -200), (-200, 200)])
def test_operands_beyond_float32_whose_products_are_within_it(exponent: int, other: int) -> None:
    unit = AlignedFloat(*(FloatFormat(4, 3, bias=7 - e) for e in (exponent, other)), 4, chunk=8)
    rng = np.random.default_rng(24)
    a, b = codes(unit.a, "finite", (3, 30), rng), codes(unit.b, "finite", (30, 4), rng)
    np.testing.assert_array_equal(unit.gemm(a, b), unit.definition(a, b))


@pytest.mark.slow
@pytest.mark.parametrize("operand", [E4M3, HALF, BFLOAT16], ids=str)
@pytest.mark.parametrize("group", [16, 31, 32, 64])
def test_full_groups(operand: FloatFormat, group: int) -> None:
    """Where float32 holds a group's sum, and where it no longer does: at most 2 · group · 4 · 2**F steps."""
    last = 24 - (4 * group + 1).bit_length()
    for fraction_bits in range(last - 2, last + 3):
        unit = AlignedFloat(
            operand,
            operand,
            group,
            fraction_bits,
            FloatFormat(8, fraction_bits),
            3 * group,
            total_rounding="nearest",
        )
        for kind in ("full", "normal"):
            rng = np.random.default_rng(fraction_bits)
            a, b = (codes(operand, kind, shape, rng) for shape in ((4, 3 * group), (3 * group, 48)))
            np.testing.assert_array_equal(unit.gemm(a, b), unit.definition(a, b))


def test_shapes_tiles_and_threads_change_nothing() -> None:
    unit = AlignedFloat(group=8, chunk=24)
    rng = np.random.default_rng(19)
    a, b = codes(E4M3, "normal", (131, 150), rng), codes(E4M3, "normal", (150, 300), rng)
    whole = unit.gemm(a, b)
    np.testing.assert_array_equal(unit.gemm(a[:5], b[:, 250:]), whole[:5, 250:])
    np.testing.assert_array_equal(unit.gemm(b.T, a.T), whole.T)
    np.testing.assert_array_equal(whole[126:, 298:], unit.definition(a[126:], b[:, 298:]))
    assert not unit.gemm(a[:, :0], b[:0]).any()
    assert unit.gemm(a[:0], b).shape == (0, 300)


def test_no_chunks_are_none_whatever_the_group() -> None:
    """Which need not divide `NO_CHUNKS`; and the largest group."""
    rng = np.random.default_rng(23)
    a, b = codes(E4M3, "normal", (3, 300), rng), codes(E4M3, "normal", (300, 4), rng)
    for group in (3, 256):
        unit = named("hopper_fp8_fast", group=group)
        np.testing.assert_array_equal(unit.gemm(a, b), unit.definition(a, b))


def test_long_sums_use_threads() -> None:
    unit = AlignedFloat()
    rng = np.random.default_rng(20)
    a, b = codes(E4M3, "normal", (64, 4096), rng), codes(E4M3, "normal", (4096, 270), rng)
    whole = unit.gemm(a, b)  # 71 million products
    np.testing.assert_array_equal(unit.gemm(a[60:], b[:, 265:]), whole[60:, 265:])


def test_promotion_is_float32s_addition_to_nearest() -> None:
    unit = AlignedFloat(E4M3, E4M3)
    rng = np.random.default_rng(21)
    a, b = codes(E4M3, "normal", (5, 1000), rng), codes(E4M3, "normal", (1000, 6), rng)
    total = np.zeros((5, 6), np.float32)
    for k in range(0, 1000, 128):
        fast = replace(unit, chunk=NO_CHUNKS).gemm(a[:, k : k + 128], b[k : k + 128])
        total += fast.view(np.float32)
    np.testing.assert_array_equal(unit.gemm(a, b).view(np.float32), total)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"a": FP32}, "a is e8m23, 32 bits, but operands have at most 16; take fewer mantissa bits"),
        ({"group": 0}, "group is 0, but a group has 1 … 256 products; take 32"),
        (
            {"group": 1 << 40, "chunk": 1 << 40},
            f"group is {1 << 40}, but a group has 1 … 256 products; take 32",
        ),
        (
            {"chunk": 100},
            "chunk is 100, but a chunk holds whole groups of 32; take 128, or 1073741824 for no chunks",
        ),
        (
            {"chunk": 1 << 70},
            f"chunk is {1 << 70}, but it must be 1 … 1073741824, and so many are no chunks",
        ),
        (
            {"fraction_bits": 12},
            "fraction_bits is 12, but an accumulator of 13 mantissa bits and groups of 32 take 13 … 45",
        ),
        (
            {"accumulator": FP16.replace(saturate=True)},
            "accumulator is e6m9sat, but its overflow must be infinity; take one such as e8m13",
        ),
        ({"rounding": "stochastic"}, "rounding is 'stochastic', but it must be 'truncate' or 'nearest'"),
    ],
)
def test_refusals(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AlignedFloat(**parameters)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^total is 3, but it must be a FloatFormat"):
        AlignedFloat(total=3)  # type: ignore[arg-type]


def test_a_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^seed is 1, but .* draws nothing; leave it out$"):
        AlignedFloat().gemm(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), seed=1)


def test_it_is_listed() -> None:
    assert ARITHMETICS["aligned_float"] is AlignedFloat
    assert named("hopper_fp8") == AlignedFloat()
    assert named("hopper_fp8(a=e5m2, chunk=64)") == AlignedFloat(FloatFormat(5, 2), chunk=64)
    with pytest.raises(ValueError, match=r"^group is -1, but a group has 1 … "):
        named("hopper_fp8(group=-1)")
