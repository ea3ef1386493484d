"""Every kernel of an arithmetic against its definition where formats are small or sums underflow."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_formats import Accumulation, formats

from quaver.golden.arithmetic import ChunkedFloat, FixedPoint
from quaver.golden.formats import DLFLOAT, FP8, FixedFormat, FloatFormat, Specials
from quaver.golden.kernels import vector
from quaver.golden.kernels.scalar import scalar_gemm
from quaver.golden.kernels.vector import largest_sum, plan, vector_gemm

SEED = 2018
pytestmark = pytest.mark.filterwarnings("ignore::quaver.golden.arithmetic.chunked_float.FewRandomBits")


def kernels(arithmetic: ChunkedFloat, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """What each kernel that takes this GEMM makes of it."""
    states = arithmetic.sources(SEED) if arithmetic.stochastic else None
    found = {"integers": scalar_gemm(arithmetic, a, b, states)}
    for bound in (largest_sum(arithmetic, a, b), math.inf):
        for directed in {False, vector.AVX512}:
            if how := plan(arithmetic, bound, directed):
                found[f"{how}"] = vector_gemm(arithmetic, how, a, b, states)
    return found


def assert_all(arithmetic: ChunkedFloat, a: np.ndarray, b: np.ndarray, expected: np.ndarray) -> None:
    for kernel, got in kernels(arithmetic, a, b).items():
        wrong = np.argwhere(got != expected)
        assert not len(wrong), (
            f"{arithmetic}, {kernel}: row {a[wrong[0][0]]} times column {b[:, wrong[0][1]]} is "
            f"{got[tuple(wrong[0])]:#x} instead of {expected[tuple(wrong[0])]:#x}, and {len(wrong) - 1} more"
        )


def every_two_products(operand: FloatFormat) -> tuple[np.ndarray, np.ndarray]:
    """Operands of all sums of two products."""
    first, second = (codes.ravel() for codes in np.indices((1 << operand.width, 1 << operand.width)))
    a = np.stack([first, second], 1).astype(operand.code_dtype)
    return a, np.ascontiguousarray(a.T)


def long_sums(operand: FloatFormat, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Operands of sums of seven products: of any codes, of finite ones, and of the smallest."""
    magnitudes = np.arange(1 << operand.width) & (operand.sign_code - 1)
    kinds = [magnitudes >= 0, magnitudes <= operand.max_code, magnitudes <= 3 << operand.mantissa_bits]
    codes = [rng.choice(np.flatnonzero(kind), (2, 48, 7)).astype(operand.code_dtype) for kind in kinds]
    return [(a, np.ascontiguousarray(b.T)) for a, b in codes]


OPERANDS = formats(5, list(Specials), [False])
ACCUMULATORS = formats(7, list(Specials))
PAIRS = [(operand, accumulator) for operand in OPERANDS for accumulator in ACCUMULATORS]
#: A few pairs, of each kind of specials; operands of four bits, whose sums are soon through, first.
SOME = [
    pair
    for kind in Specials
    for pair in sorted(
        random.Random(1).sample([pair for pair in PAIRS if pair[1].specials is kind], 6),
        key=lambda pair: pair[0].width,
    )
]


def check_pair(operand: FloatFormat, accumulator: FloatFormat) -> int:
    """Two products of any codes, and seven of some; the outputs compared."""
    rng, compared = np.random.default_rng(1), 0
    for rounding in ("nearest", "stochastic"):
        arithmetics = [
            ChunkedFloat(operand, accumulator, chunk, rounding, random_bits=2) for chunk in (1, 2, 5)
        ]
        defined = Accumulation(arithmetics[0])
        for arithmetic in arithmetics:
            seed = SEED if arithmetic.stochastic else None
            for a, b in [every_two_products(operand), *long_sums(operand, rng)]:
                expected = defined.of(arithmetic).gemm(a, b, seed)
                assert_all(arithmetic, a, b, expected)
                compared += expected.size
    return compared


@pytest.mark.parametrize(
    ("operand", "accumulator"),
    [pytest.param(*pair, marks=[pytest.mark.slow] * (i != 18)) for i, pair in enumerate(SOME)],
    ids=str,
)
def test_sums_of_small_formats(operand: FloatFormat, accumulator: FloatFormat) -> None:
    check_pair(operand, accumulator)


@pytest.mark.exhaustive
@pytest.mark.parametrize("operand", [fmt for fmt in OPERANDS if fmt.width == 4], ids=str)
def test_sums_of_every_pair_of_small_formats(operand: FloatFormat) -> None:
    """Operands of five bits take a hundred times as long: SOME has a few of them."""
    compared = sum(check_pair(operand, accumulator) for accumulator in ACCUMULATORS)
    print(f"{operand} into {len(ACCUMULATORS)} accumulators: {compared:,} outputs equal")


def test_the_tables_are_the_definition() -> None:
    rng = np.random.default_rng(2)
    for operand, accumulator in SOME:
        for rounding in ("nearest", "stochastic"):
            arithmetic = ChunkedFloat(operand, accumulator, 2, rounding, random_bits=3)
            a, b = (
                rng.integers(0, 1 << operand.width, s).astype(operand.code_dtype) for s in ((4, 5), (5, 4))
            )
            seed = SEED if arithmetic.stochastic else None
            expected = arithmetic.definition(a, b, seed=seed)
            np.testing.assert_array_equal(Accumulation(arithmetic).gemm(a, b, seed), expected)


@pytest.mark.parametrize(
    ("a", "b", "code"),
    [
        ([2, 2, 2], [131, 2, 129], 0x8000),  # the last fold adds −0 to a total of −0
        ([1, 1], [4, 0x85], 0x8000),  # … and underflows: 2**-30 − 1.25·2**-30
        ([1, 1], [0x84, 5], 0x0000),
        ([0x81], [1], 0x0000),  # a partial sum of −0, and a total of +0
    ],
)
def test_a_dlfloat_that_underflows_keeps_its_sign(a: list[int], b: list[int], code: int) -> None:
    arithmetic = ChunkedFloat(FP8, DLFLOAT, chunk=1)
    row, column = np.array([a], np.uint8), np.array([b], np.uint8).T
    assert arithmetic.definition(row, column) == code
    assert_all(arithmetic, row, column, np.array([[code]]))


floats = st.builds(
    lambda exponent, mantissa, shift, specials, saturate: FloatFormat(
        exponent, mantissa, (1 << exponent - 1) - 1 + shift, specials, saturate
    ),
    st.integers(2, 7),
    st.integers(1, 8),
    st.integers(-9, 9),
    st.sampled_from(Specials),
    st.booleans(),
)


tiny = given(
    st.data(),
    floats,
    floats,
    st.integers(1, 3),
    st.sampled_from(["nearest", "stochastic"]),
    st.integers(1, 16),
)


@tiny
@settings(max_examples=3, deadline=None, derandomize=True)
def test_sums_of_tiny_operands(
    data: st.DataObject, operand: FloatFormat, accumulator: FloatFormat, chunk: int, rounding: str, bits: int
) -> None:
    check_tiny(data, operand, accumulator, chunk, rounding, bits)


@pytest.mark.slow
@tiny
@settings(max_examples=100, deadline=None)
def test_sums_of_many_tiny_operands(
    data: st.DataObject, operand: FloatFormat, accumulator: FloatFormat, chunk: int, rounding: str, bits: int
) -> None:
    """Each pair of formats compiles its kernels, which is what takes the time."""
    check_tiny(data, operand, accumulator, chunk, rounding, bits)


def check_tiny(
    data: st.DataObject, operand: FloatFormat, accumulator: FloatFormat, chunk: int, rounding: str, bits: int
) -> None:
    arithmetic = ChunkedFloat(operand, accumulator, chunk, rounding, bits)
    k = data.draw(st.integers(1, 5))
    seed = data.draw(st.integers(0, 1 << 32))
    rng = np.random.default_rng(seed)
    # Products that lie about the accumulator's smallest numbers, if the operand has such.
    smallest = accumulator.quantum_exponent + accumulator.mantissa_bits // 2 + data.draw(st.integers(-3, 3))
    exponent = min(max(smallest // 2, operand.quantum_exponent), operand.max_exponent)
    a, b = (operand.encode(rng.normal(size=shape) * 2.0**exponent) for shape in ((3, k), (k, 3)))
    expected = arithmetic.definition(a, b, seed=SEED if arithmetic.stochastic else None)
    assert_all(arithmetic, a, b, expected)
    if accumulator.specials is not Specials.DLFLOAT:
        assert not (expected == accumulator.sign_code).any()  # no result is −0


@given(
    st.integers(2, 8),
    st.integers(0, 12),
    st.integers(1, 10),
    st.sampled_from(["nearest", "stochastic"]),
    st.integers(1, 16),
    st.integers(0, 1 << 32),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_fixed_point_sums_below_a_step(
    width: int, dropped: int, result_width: int, rounding: str, bits: int, seed: int
) -> None:
    """Sums of either sign that are a fraction of the result's step, or a few of them."""
    operand, result = FixedFormat(width, 0), FixedFormat(result_width + 1 + dropped, -dropped)
    arithmetic = FixedPoint(operand, operand, result, rounding, bits)
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 1 << width, shape).astype(operand.code_dtype) for shape in ((9, 3), (3, 9)))
    a[rng.integers(0, 2, a.shape) > 0] = 0
    given_seed = {"seed": SEED} if arithmetic.stochastic else {}
    np.testing.assert_array_equal(
        arithmetic.gemm(a, b, **given_seed), arithmetic.definition(a, b, **given_seed)
    )
