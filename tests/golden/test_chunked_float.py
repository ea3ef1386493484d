"""ChunkedFloat: the definition, the kernels, and what others compute are the same bits.

The chain: exact fractions (slow) hold the integer kernel, that holds the vector kernels on much more data,
and gfloat and APyTypes are witnesses from outside.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import warnings
import zlib
from dataclasses import replace

import apytypes
import gfloat
import numba
import numpy as np
import pytest

from quaver.golden import exact
from quaver.golden.arithmetic import ARITHMETICS, ChunkedFloat
from quaver.golden.arithmetic.chunked_float import FewRandomBits
from quaver.golden.formats import BFLOAT16, DLFLOAT, E4M3, FP8, FP16, FP32, HALF, FloatFormat, hfp8
from quaver.golden.kernels import scalar, vector, vector_kernel
from quaver.golden.kernels.scalar import scalar_gemm
from quaver.golden.kernels.vector import KernelPlan, largest_sum, plan, vector_gemm
from quaver.golden.lfsr import numbered_seed
from quaver.golden.random_bits import draws_of

pytestmark = pytest.mark.filterwarnings("ignore::quaver.golden.arithmetic.chunked_float.FewRandomBits")

SATURATING = FP16.replace(saturate=True)
OPEN_E4M3 = E4M3.replace(saturate=False)
WIDEST = FloatFormat(6, 12)
PAIRS = [
    (FP8, FP16),
    (FP16, FP16),
    (E4M3, FP16),
    (hfp8(), FP16),
    (hfp8(11), FP16),
    (FP8, SATURATING),
    (FP8, OPEN_E4M3),
    (FP8, E4M3),
    (FP8, FP8),
    (FP8, FloatFormat(4, 11)),
    (FP8, BFLOAT16),
    (HALF, HALF),
    (HALF, FP16),
    (BFLOAT16, BFLOAT16),
    (BFLOAT16, FP16),
    (FP16, FloatFormat(2, 13)),
    (FloatFormat(9, 4), FP16),
    (FloatFormat(2, 1), FloatFormat(9, 6)),
    (FP8, FloatFormat(6, 10)),
    (FP8, WIDEST),
    (FP16, WIDEST),
    (FP8, WIDEST.replace(specials="fn", saturate=True)),
    (FP8, FP32),
    (FP16, FP32),
    (BFLOAT16, FP32),
    (HALF, FP32),
    (FloatFormat(6, 2, bias=0), FP32),  # products of up to 2**126: sums overflow
    (FloatFormat(6, 2, bias=0), FP32.replace(saturate=True)),
    (FP8, FloatFormat(6, 23)),
    (FP8, FloatFormat(5, 23)),
    (FP8, FloatFormat(4, 23)),  # with sums that are subnormal
    (FP8, FloatFormat(5, 23, specials="fn", saturate=True)),
    (FP8, DLFLOAT),
    (DLFLOAT, DLFLOAT),
    (FP8, FloatFormat(5, 6, specials="dl", saturate=True)),  # sums that end in its gap and beyond its end
    (E4M3, FloatFormat(4, 12, specials="dl")),
    (FP8, FloatFormat(6, 23, specials="dl")),
]
ROUNDINGS = [("nearest", 14), ("stochastic", 14), ("stochastic", 1), ("stochastic", 24)]
KINDS = ("any", "near", "small", "large", "ties")


def seeded(arithmetic: ChunkedFloat, seed: int) -> dict[str, int]:
    """The seed as `gemm` takes it: only where something draws."""
    return {"seed": seed} if arithmetic.stochastic else {}


def states(arithmetic: ChunkedFloat, seed: int) -> tuple[int, int, int] | None:
    """The states of the random sources as the kernels take them: None where nothing draws."""
    return arithmetic.sources(seed) if arithmetic.stochastic else None


def name(value):
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def operands(kind, fmt, acc, M, K, N):
    """Codes (M, K) and (K, N) of a kind that is hard in its own way."""
    rng = np.random.default_rng(zlib.crc32(f"{kind} {fmt} {acc} {M} {K} {N}".encode()))
    if kind == "ties":
        # Products that are powers of two or midpoints of two neighbours, at telling distances from each
        # other; every third one far below: what it adds decides a tie, or must be lost without a trace.
        gap = rng.choice([0, 0, 0, 1, acc.precision - 1, acc.precision, acc.precision + 1, 23, 24], K)
        gap[::3] = rng.choice([24, 30, 54, 62], len(gap[::3]))
        gap -= min(2 * fmt.max_exponent, acc.max_exponent) - 8
        half = acc.precision // 2
        left = rng.choice([1.0, 1.0, 1.5, -1.0, 1 + 2.0**-half], (M, K))
        right = rng.choice([1.0, 1.0, 1.5, -1.0, 1 + 2.0 ** (half - acc.precision)], (K, N))
        return fmt.encode(np.ldexp(left, -(gap // 2))), fmt.encode(np.ldexp(right, (gap // 2 - gap)[:, None]))
    step = 1 << fmt.mantissa_bits
    low, high = {
        "any": (0, fmt.sign_code),
        "near": (max(0, (fmt.bias - 3) * step), min((fmt.bias + 3) * step, fmt.max_code)),
        "small": (0, 3 * step),
        "large": (fmt.max_code - 3 * step, fmt.max_code + 1),
    }[kind]
    low, high = max(low, 0), max(min(high, fmt.sign_code), low + 1)

    def codes(shape):
        drawn = rng.integers(low, high, shape) + fmt.sign_code * rng.integers(0, 2, shape)
        return drawn.astype(fmt.code_dtype)

    return codes((M, K)), codes((K, N))


def assert_same(got, expected):
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


# The definition


def test_the_sum_stalls_without_chunks_and_does_not_with_them():
    ones = FP8.encode(np.ones((1, 8192)))
    assert FP16.decode(ChunkedFloat(chunk=1100).definition(ones[:, :1100], ones.T[:1100])) == 1024
    assert FP16.decode(ChunkedFloat(chunk=8192).gemm(ones, ones.T)) == 1024
    assert FP16.decode(ChunkedFloat(chunk=64).gemm(ones, ones.T)) == 8192


def test_every_sum_is_rounded_in_order():
    # 1024 + 1 is a tie to 1024 (even); 1026 + 1 is a tie to 1028 (even); and the order matters.
    assert FP16.decode(one_output([1024, 1])) == 1024
    assert FP16.decode(one_output([1024, 2, 1])) == 1028
    assert FP16.decode(one_output([1024, 1, 2])) == 1026
    assert FP16.decode(one_output([1024, 1, 1, 1], chunk=1)) == 1024
    assert FP16.decode(one_output([1024, 1, 1, 1], chunk=2)) == 1026


def one_output(terms, chunk=64, **options):
    arithmetic = ChunkedFloat(chunk=chunk, **options)
    a, b = FP8.encode(np.array([terms], float)), FP8.encode(np.ones((len(terms), 1)))
    code = arithmetic.gemm(a, b)
    assert_same(code, arithmetic.definition(a, b))
    return code[0, 0]


def test_stochastic_rounding_takes_the_documented_draws():
    arithmetic = ChunkedFloat(chunk=2, rounding="stochastic")
    a, b = operands("near", FP8, FP16, 3, 5, 4)
    seed = 0xFFFFFFFF
    got = arithmetic.gemm(a, b, seed=seed)
    for i, j in np.ndindex(3, 4):
        draws = draws_of(seed, i, j, 14)

        def rounded(x, draws=draws):
            return exact.decode(FP16, exact.encode(FP16, x, "stochastic", next(draws), 14))

        total = 0.0
        for chunk in ((0, 1), (2, 3), (4,)):
            partial = 0.0
            for k in chunk:
                product = exact.multiply(exact.decode(FP8, int(a[i, k])), exact.decode(FP8, int(b[k, j])))
                partial = rounded(exact.add(partial, product))
            total = rounded(exact.add(total, partial))
        assert exact.decode(FP16, int(got[i, j])) == total


# The kernels


@pytest.mark.parametrize("chunk", [1, 3, 64])
@pytest.mark.parametrize("rounding", ROUNDINGS, ids=name)
@pytest.mark.parametrize("pair", PAIRS, ids=name)
def test_the_integer_kernel_is_the_definition(pair, rounding, chunk):
    arithmetic = ChunkedFloat(*pair, chunk, *rounding)
    for kind in KINDS:
        a, b = operands(kind, *pair, 2, 5, 3)
        assert_same(
            scalar_gemm(arithmetic, a, b, states(arithmetic, 7)),
            arithmetic.definition(a, b, **seeded(arithmetic, 7)),
        )


@pytest.mark.parametrize("rounding", ROUNDINGS, ids=name)
@pytest.mark.parametrize("pair", PAIRS, ids=name)
def test_the_vector_kernels_are_the_integer_kernel(pair, rounding):
    for chunk in (1, 3, 64):
        arithmetic = ChunkedFloat(*pair, chunk, *rounding)
        for kind in KINDS:
            a, b = operands(kind, *pair, 13, 130, 61)
            drawn = states(arithmetic, 7)
            expected = scalar_gemm(arithmetic, a, b, drawn)
            assert_same(arithmetic.gemm(a, b, **seeded(arithmetic, 7)), expected)
            for bound in (largest_sum(arithmetic, a, b), math.inf):
                for directed in {False, vector.AVX512}:
                    how = plan(arithmetic, bound, directed)
                    if how is not None:
                        assert_same(vector_gemm(arithmetic, how, a, b, drawn), expected)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("K", [0, 1, 2, 63, 64, 65, 127, 128, 129, 256, 300])
@pytest.mark.parametrize("chunk", [1, 7, 64, 128, 129, 1000, 1 << 70])
def test_any_length_and_any_chunk(rounding, K, chunk):
    arithmetic = ChunkedFloat(chunk=chunk, rounding=rounding)
    a, b = operands("near", FP8, FP16, 7, K, 5)
    c = arithmetic.gemm(a, b, **seeded(arithmetic, 1))
    assert_same(c, scalar_gemm(arithmetic, a, b, states(arithmetic, 1)))
    if K == 0:
        assert not c.any()


@pytest.mark.parametrize("K", [0, 1, 63, 64, 65, 128, 129, 256])
def test_any_length_of_sums_in_float32(K):
    for pair in ((FP8, FP32), (FP16, FP32), (FloatFormat(6, 2, bias=0), FP32), (FP8, FloatFormat(5, 23))):
        for kind in KINDS:
            for chunk in (1, 63, 64, 129, 1000):
                arithmetic = ChunkedFloat(*pair, chunk)
                a, b = operands(kind, *pair, 7, K, 50)
                c = arithmetic.gemm(a, b)
                assert_same(c, scalar_gemm(arithmetic, a, b, None))


@pytest.mark.parametrize(
    ("M", "N"), [(0, 3), (3, 0), (0, 0), (1, 1), (6, 48), (7, 49), (200, 3), (3, 200), (500, 500)]
)
def test_any_shape(M, N):
    for rounding in ("nearest", "stochastic"):
        arithmetic = ChunkedFloat(rounding=rounding)
        a, b = operands("near", FP8, FP16, M, 70, N)
        c = arithmetic.gemm(a, b, **seeded(arithmetic, 9))
        assert c.shape == (M, N)
        assert c.dtype == np.uint16
        assert_same(c, scalar_gemm(arithmetic, a, b, states(arithmetic, 9)))


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize(
    ("products", "M", "K", "N"), [(5, 7, 70, 9), (3, 130, 20, 10), (0, 2, 3, 4), (2, 3, 0, 4)]
)
def test_a_batch_is_its_products(rounding, products, M, K, N):
    for pair in ((FP8, FP16), (FP16, FP32)):  # of the latter, stochastic sums are the integer kernel's
        arithmetic = ChunkedFloat(*pair, rounding=rounding)
        pairs = [operands("near", *pair, M, K + i, N) for i in range(products)]
        a = np.array([x[:, :K] for x, _ in pairs], pair[0].code_dtype).reshape(products, M, K)
        b = np.array([y[:K] for _, y in pairs], pair[0].code_dtype).reshape(products, K, N)
        c = arithmetic.batched_gemm(a, b, **seeded(arithmetic, 7))
        assert c.shape == (products, M, N)
        for i in range(products):
            assert_same(c[i], arithmetic.gemm(a[i], b[i], **seeded(arithmetic, numbered_seed(7, i))))


def test_a_batch_says_what_is_wrong():
    a, b = np.zeros((2, 3, 4), np.uint8), np.zeros((2, 4, 5), np.uint8)
    for x, y in ((a, b[:1]), (a, b[:, :3]), (a[0], b[0])):
        with pytest.raises(ValueError, match=r"but they must be \(products, M, K\) and \(products, K, N\)"):
            ChunkedFloat().batched_gemm(x, y)
    with pytest.raises(ValueError, match="draws nothing; leave it out"):
        ChunkedFloat().batched_gemm(a, b, seed=1)
    with pytest.raises(ValueError, match="random bits need one"):
        ChunkedFloat(rounding="stochastic").batched_gemm(a, b)


def test_layout_of_the_operands_does_not_matter():
    a, b = operands("near", FP8, FP16, 20, 70, 30)
    expected = ChunkedFloat().gemm(a, b)
    assert_same(ChunkedFloat().gemm(np.asfortranarray(a), np.asfortranarray(b)), expected)
    assert_same(ChunkedFloat().gemm(np.repeat(a, 2, 1)[:, ::2], b.astype(np.int64)), expected)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_threads_do_not_change_a_bit(rounding, monkeypatch):
    arithmetic = ChunkedFloat(rounding=rounding)
    for M, N in ((100, 30), (5, 300), (1, 1)):
        a, b = operands("near", FP8, FP16, M, 100, N)
        expected = arithmetic.gemm(a, b, **seeded(arithmetic, 3))
        monkeypatch.setattr(vector, "ONE_THREAD_MACS", 0)
        for threads in (2, 3, 7):
            monkeypatch.setattr(numba, "get_num_threads", lambda threads=threads: threads)
            assert_same(arithmetic.gemm(a, b, **seeded(arithmetic, 3)), expected)
        monkeypatch.undo()


def test_the_plans():
    """Which kernel a pair gets: the table that `plan`'s docstring argues for."""

    def chosen(operand, accumulator=FP16, bound=1.0, **options):
        how = plan(ChunkedFloat(operand, accumulator, **options), bound, directed=True)
        if how is None:
            return None
        clauses = ("corrected", "subnormal", "checked", "directed", "ties_away", "gap", "own")
        return np.dtype(how.value).itemsize * 8, {clause for clause in clauses if getattr(how, clause)}

    assert chosen(FP8) == (32, set())
    assert chosen(FP8, bound=FP16.max_value) == (32, set())
    assert chosen(FP8, bound=FP16.max_value * 1.01) == (32, {"checked"})
    assert chosen(FP8, bound=math.nan) == (32, {"checked"})
    assert chosen(FP8, rounding="stochastic") == (32, {"directed"})
    assert chosen(FP8, rounding="stochastic", random_bits=15) == (64, {"directed"})
    assert chosen(FP8, rounding="stochastic-b", random_bits=13) == (32, {"directed"})
    assert chosen(FP8, rounding="stochastic-b") == (64, {"directed"})
    assert chosen(FP8, rounding="stochastic-c") == (32, {"own"})
    assert chosen(FP8, rounding="stochastic-c", random_bits=13) is None
    assert chosen(FP16, rounding="stochastic-c") is None  # its sums may be subnormal
    assert chosen(E4M3) == (32, set())
    assert chosen(hfp8(17)) == (32, set())
    assert chosen(hfp8(18)) == (32, {"subnormal"})
    assert chosen(FP16) == (32, {"corrected", "subnormal", "directed"})
    assert chosen(HALF) == (32, {"corrected", "subnormal", "directed"})
    assert chosen(FP8, HALF) == (32, {"subnormal"})
    assert chosen(FP8, BFLOAT16) == (32, set())
    assert chosen(FP8, FP8) == (32, {"corrected", "subnormal", "directed"})
    assert chosen(FP8, FloatFormat(3, 12)) == (64, {"subnormal"})
    assert chosen(BFLOAT16) == (64, {"corrected", "subnormal", "directed"})
    assert chosen(BFLOAT16, BFLOAT16) == (64, {"corrected", "subnormal", "directed"})
    assert chosen(FloatFormat(9, 4)) == (64, {"subnormal"})
    assert chosen(FloatFormat(9, 4, bias=500)) is None
    assert chosen(FP8, FP32, bound=math.inf) == (32, set())
    assert chosen(FP16, FP32, bound=math.inf) == (32, set())
    assert chosen(HALF, FP32) == (32, set())
    assert chosen(FP8, FP32.replace(saturate=True), bound=math.inf) == (32, {"checked"})
    assert chosen(FP8, FP32, rounding="stochastic") == (64, {"directed"})
    assert chosen(FP8, FloatFormat(6, 23), bound=math.inf) == (32, {"checked"})
    assert chosen(FP8, FloatFormat(4, 23)) == (64, {"subnormal"})
    assert chosen(BFLOAT16, FP32) == (64, {"subnormal"})
    assert chosen(FloatFormat(6, 2, bias=0), FP32, bound=math.inf) == (32, set())
    assert chosen(FloatFormat(6, 2, bias=-1), FP32, bound=math.inf) == (64, {"checked"})
    assert chosen(FP8, DLFLOAT) == (32, {"directed", "ties_away", "gap"})
    assert chosen(DLFLOAT, DLFLOAT) == (32, {"directed", "ties_away", "gap"})
    assert chosen(FP8, DLFLOAT, rounding="stochastic") == (32, {"directed", "gap"})
    assert chosen(hfp8(), DLFLOAT, bound=math.inf) == (32, {"checked", "directed", "ties_away"})
    assert chosen(FP8, FloatFormat(6, 23, specials="dl")) == (64, {"directed", "ties_away", "gap"})
    assert [chosen(FP8, FloatFormat(6, m))[0] for m in range(4, 13)] == 7 * [32] + 2 * [64]
    assert chosen(FP16, WIDEST) == (64, {"corrected", "subnormal", "directed"})
    assert chosen(FP8, WIDEST, rounding="stochastic") == (64, {"directed"})


def test_overflow_is_looked_for_exactly_when_it_can_happen():
    arithmetic = ChunkedFloat(chunk=64)
    largest = FP8.max_value
    for terms in (1, 2, 3):
        a, b = FP8.encode(np.full((7, terms), largest)), FP8.encode(np.full((terms, 5), largest))
        bound = largest_sum(arithmetic, a, b)
        assert bound >= terms * largest**2
        how = plan(arithmetic, bound)
        assert how.checked == (terms > 1)  # 57344² fits FP16 once, twice it does not
        c = arithmetic.gemm(a, b)
        assert_same(c[:1, :1], arithmetic.definition(a[:1], b[:, :1]))
        assert np.isinf(FP16.decode(c)).all() == (terms > 1)
    # Without the check a sum that comes back from there is wrong, so the edge is where it must be.
    a[:, 2] ^= FP8.sign_code
    unchecked = KernelPlan(np.float32, False, False, False, False)
    assert np.isinf(FP16.decode(arithmetic.gemm(a, b))).all()
    assert np.isfinite(FP16.decode(vector_gemm(arithmetic, unchecked, a, b, None))).all()


def test_the_bound_holds():
    for rounding in ("nearest", "stochastic"):
        for kind in ("near", "small", "ties"):
            for chunk in (1, 16, 400):
                arithmetic = ChunkedFloat(chunk=chunk, rounding=rounding)
                a, b = operands(kind, FP8, FP16, 9, 400, 9)
                magnitudes = a & 0x7F, b & 0x7F
                c = FP16.decode(arithmetic.gemm(*magnitudes, **seeded(arithmetic, 1)))
                assert c.max() <= largest_sum(arithmetic, a, b)


@pytest.mark.parametrize("precision", [3, 8, 10, 11])
def test_two_multiply_adds_round_every_float32_significand(precision):
    """The vector kernel's rounding against integers, for all 2**23 significands, as NumPy computes it."""
    significand = np.arange(1 << 23, 1 << 24, dtype=np.int64)
    scale = np.float32(1 << (24 - precision))
    total = significand.astype(np.float32)
    rounded = (total - scale * total) + scale * total
    dropped = 24 - precision
    kept, rest, half = significand >> dropped, significand & ((1 << dropped) - 1), 1 << (dropped - 1)
    kept += (rest > half) | ((rest == half) & (kept & 1 == 1))
    np.testing.assert_array_equal(rounded.astype(np.int64), kept << dropped)


# Specials


def test_specials():
    inf, nan = math.inf, math.nan
    cases = [
        ([[inf, 1]], [[1], [1]], inf),
        ([[inf, -inf]], [[1], [1]], nan),
        ([[inf, 1]], [[0], [1]], nan),
        ([[nan, 1]], [[1], [1]], nan),
        ([[-inf, 1]], [[1], [1]], -inf),
        ([[-0.0, 0.0]], [[1], [-1]], 0.0),
        ([[1, -1]], [[1], [1]], 0.0),
    ]
    for chunk in (1, 2):
        for left, right, expected in cases:
            a = FP8.encode(np.array(left, float), saturate=False)
            b = FP8.encode(np.array(right, float), saturate=False)
            arithmetic = ChunkedFloat(chunk=chunk)
            c = arithmetic.gemm(a, b)
            assert_same(c, arithmetic.definition(a, b))
            assert_same(c, FP16.encode(np.array([[expected]])))
    assert_same(c, np.zeros((1, 1), np.uint16))  # never −0


def test_a_saturating_accumulator_saturates_at_every_sum():
    a = FP8.encode(np.array([[57344.0, 57344.0, -57344.0]]))
    b = FP8.encode(np.array([[57344.0], [57344.0], [57344.0]]))
    assert FP16.decode(ChunkedFloat().gemm(a, b)) == math.inf
    c = ChunkedFloat(accumulator=SATURATING).gemm(a, b)
    assert_same(c, ChunkedFloat(accumulator=SATURATING).definition(a, b))
    assert FP16.decode(c) == FP16.max_value - 57344.0**2


@pytest.mark.parametrize("fmt", [FP8, FP16, E4M3, hfp8(), BFLOAT16], ids=str)
def test_the_identity_changes_no_sum(fmt):
    arithmetic = ChunkedFloat(fmt)
    left, right = arithmetic.identity
    a, b = operands("near", fmt, FP16, 3, 10, 4)
    with_bubbles = np.insert(a, [0, 4, 10], left, axis=1), np.insert(b, [0, 4, 10], right, axis=0)
    assert_same(arithmetic.gemm(*with_bubbles), arithmetic.gemm(a, b))
    product = exact.multiply(exact.decode(fmt, left), exact.decode(fmt, right))
    for sum_so_far in (0.0, -0.0):
        assert math.copysign(1, exact.add(sum_so_far, product)) == math.copysign(1, sum_so_far)


# Witnesses from outside


@pytest.mark.parametrize("chunk", [64, 150])
@pytest.mark.parametrize("operand", [FP8, FP16, E4M3], ids=str)
def test_fp32_accumulation_is_a_loop_of_float32_additions(operand, chunk):
    for kind in KINDS:
        a, b = operands(kind, operand, FP32, 12, 150, 50)
        left, right = operand.decode(a), operand.decode(b)
        total = np.zeros((12, 50), np.float32)
        with np.errstate(invalid="ignore"):
            for start in range(0, 150, chunk):
                partial = np.zeros((12, 50), np.float32)
                for k in range(start, min(start + chunk, 150)):
                    partial += left[:, k, None] * right[k]
                total += partial
        assert total.dtype == np.float32
        c = ChunkedFloat(operand, FP32, chunk).gemm(a, b)
        assert_same(np.where(np.isnan(total), FP32.nan_code, total.view(np.uint32)).astype(np.uint32), c)


@pytest.mark.parametrize(
    "pair", [(FP8, FP16), (FP16, FP16), (E4M3, HALF), (hfp8(), FP16), (FP8, WIDEST), (FP16, WIDEST)], ids=name
)
def test_gfloat_agrees(pair):
    operand, acc = pair
    fmt = gfloat.FormatInfo(
        "accumulator",
        acc.width,
        acc.precision,
        bias=acc.bias,
        is_signed=True,
        domain=gfloat.types.Domain.Extended,
        has_nz=True,
        num_high_nans=(1 << acc.mantissa_bits) - 1,
        has_subnormals=True,
        is_twos_complement=False,
    )
    for kind in ("near", "ties"):
        a, b = operands(kind, operand, acc, 12, 150, 50)
        left, right = operand.decode(a).astype(float), operand.decode(b).astype(float)
        total = np.zeros((12, 50))
        for start in range(0, 150, 64):
            partial = np.zeros((12, 50))
            for k in range(start, min(start + 64, 150)):
                partial = gfloat.round_ndarray(fmt, partial + left[:, k, None] * right[k])
            total = gfloat.round_ndarray(fmt, total + partial)
        assert_same(ChunkedFloat(operand, acc).gemm(a, b), acc.encode(total))


@pytest.mark.parametrize("pair", [(FP8, FP16), (hfp8(), FP16), (E4M3, FP16)], ids=name)
def test_apytypes_agrees(pair):
    """On products that the accumulator holds: APyTypes rounds others before it adds them."""
    operand, acc = pair
    for kind in ("near", "ties"):
        a, b = operands(kind, operand, acc, 10, 150, 20)

        def array(codes, operand=operand):
            return apytypes.APyFloatArray.from_bits(
                codes.tolist(), operand.exponent_bits, operand.mantissa_bits, operand.bias
            )

        total = apytypes.APyFloatArray.from_bits(
            np.zeros((10, 20), int).tolist(), acc.exponent_bits, acc.mantissa_bits, acc.bias
        )
        with apytypes.APyFloatAccumulatorContext(
            exp_bits=acc.exponent_bits,
            man_bits=acc.mantissa_bits,
            bias=acc.bias,
            quantization=apytypes.QuantizationMode.TIES_EVEN,
        ):
            for start in range(0, 150, 64):
                total = total + array(a[:, start : start + 64]) @ array(b[start : start + 64])
        assert_same(ChunkedFloat(operand, acc).gemm(a, b), np.array(total.to_bits()).astype(np.uint16))


# The checks can fail

MUTATIONS = {
    "ties away from zero": (scalar, "kept & 1 == 1", "True"),
    "no sticky bit": (scalar, "((magnitude & ((np.int64(1) << -shift) - 1)) != 0)", "0"),
    "ties to odd in the vectors": (
        vector_kernel,
        "self.multiply_add(near, self.scale, self.multiply_add(near, self.minus_scale, total))",
        "self.multiply_add(near, self.minus_scale, self.multiply_add(near, self.scale, total))",
    ),
    "a fold too few": (vector_kernel, "n += stop - k + 1", "n += stop - k"),
    "a fold too few between blocks": (
        vector_kernel,
        "end - start + end // chunk - start // chunk",
        "end - start",
    ),
    "the next column's diagonal": (vector_kernel, "[stream], on + v", "[stream], on + 1 + v"),
    "the first tile's columns": (
        vector_kernel,
        "pointer(y, y_v, none, at, wide)",
        "pointer(y, y_v, none, at, none)",
    ),
    "no rounding": (vector_kernel, "total if self.scale is None else self.nearest(total)", "total"),
    "double rounding": (vector_kernel, "self.sum_to_odd(a, b, c) if self.corrected else ", ""),
}


#: Kernels that draw take ten seconds to compile.
SLOW_MUTATIONS = ("a fold too few", "the first tile's columns")


@pytest.mark.parametrize(
    "mutation",
    [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW_MUTATIONS)) for each in MUTATIONS],
)
def test_a_wrong_kernel_is_caught(mutation, monkeypatch, tmp_path):
    module, right, wrong = MUTATIONS[mutation]
    with open(module.__file__) as file:
        source = file.read().replace("cache=True, ", "")
    assert source.count(right) == 1
    path = tmp_path / "mutated_kernel.py"
    path.write_text(source.replace(right, wrong))
    spec = importlib.util.spec_from_file_location("mutated_kernel", path)
    mutated = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutated_kernel", mutated)
    spec.loader.exec_module(mutated)
    if module is vector_kernel:
        monkeypatch.setattr(vector, "vector_kernel", mutated.vector_kernel)
    monkeypatch.setitem(globals(), "scalar_gemm", getattr(mutated, "scalar_gemm", scalar_gemm))
    drawn = "fold" in mutation or "column" in mutation
    rounding = ("stochastic", 14) if drawn else ("nearest", 14)

    def check():
        for pair in ((FP8, FP16), (FP16, FP16), (FP8, FP8)):
            test_the_integer_kernel_is_the_definition(pair, rounding, 3)
            test_the_vector_kernels_are_the_integer_kernel(pair, rounding)

    with pytest.raises(AssertionError):
        check()


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"chunk": 0}, ValueError, "chunk is 0, but it must be an integer ≥ 1"),
        ({"chunk": 2.5}, TypeError, "chunk is 2.5, but"),
        ({"operand": "FP8"}, TypeError, "operand is 'FP8', but it must be a FloatFormat"),
        (
            {"operand": FloatFormat(6, 12)},
            ValueError,
            "operand is e6m12, 19 bits, but operands have at most 16",
        ),
        ({"accumulator": None}, TypeError, "accumulator is None, but"),
        (
            {"rounding": "truncate"},
            ValueError,
            "rounding is 'truncate', but it must be one of n",
        ),
        ({"random_bits": 25}, ValueError, "random_bits is 25, but a draw takes 1 … 24 bits"),
        ({"random_bits": 0}, ValueError, "random_bits is 0, but"),
    ],
)
def test_parameters_that_do_not_fit(options, error, message):
    with pytest.raises(error, match=message):
        ChunkedFloat(**options)


def test_operands_that_do_not_fit():
    gemm = ChunkedFloat().gemm
    a, b = np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8)
    with pytest.raises(TypeError, match="a_codes has dtype float32, but codes are unsigned integers"):
        gemm(a.astype(np.float32), b)
    with pytest.raises(ValueError, match=r"b_codes holds 256, but codes of e5m2.* are 0 … 255"):
        gemm(a, b.astype(int) + 256)
    with pytest.raises(ValueError, match="a_codes holds -1, but"):
        gemm(a.astype(int) - 1, b)
    with pytest.raises(ValueError, match=r"a_codes has shape \(6,\), but it must be \(M, K\)"):
        gemm(a.ravel(), b)
    with pytest.raises(ValueError, match=r"disagree on K: 3 columns against 2 rows"):
        gemm(a, b.T)


@pytest.mark.parametrize("seed", [None, 0, 1 << 32, -1])
def test_stochastic_rounding_needs_a_seed(seed):
    a = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match=f"seed is {seed}, but random bits need one of 1 … 2"):
        ChunkedFloat(rounding="stochastic").gemm(a, a, seed=seed)


@pytest.mark.parametrize(
    ("operand", "rounding", "random_bits"),
    [
        (FP8, "stochastic-b", 9),
        (FP8, "stochastic-c", 14),
        (FP8, "stochastic-c", 5),
        (FP16, "stochastic-b", 10),
        (FP16, "stochastic-c", 10),
    ],
)
@pytest.mark.filterwarnings("ignore::quaver.golden.arithmetic.chunked_float.FewRandomBits")
def test_the_variants_of_stochastic_rounding(operand, rounding, random_bits):
    arithmetic = ChunkedFloat(operand, chunk=5, rounding=rounding, random_bits=random_bits)
    rng = np.random.default_rng(random_bits)
    for spread in (1.0, 2.0**-12, 2.0**14):
        a = operand.encode(rng.standard_normal((3, 23)) * spread)
        b = operand.encode(rng.standard_normal((23, 35)))
        states = arithmetic.sources(7)
        want = arithmetic.definition(a, b, seed=7)
        assert_same(arithmetic.gemm(a, b, seed=7), want)
        assert_same(scalar_gemm(arithmetic, a, b, states), want)
    # So many sums, and so long ones, that a random number between the variants is among them.
    a, b = (
        operand.encode(rng.standard_normal(shape) * 2.0 ** rng.integers(-9, 10, shape))
        for shape in ((48, 600), (600, 64))
    )
    got = arithmetic.gemm(a, b, seed=7)
    assert_same(got, scalar_gemm(arithmetic, a, b, arithmetic.sources(7)))
    assert (got != replace(arithmetic, rounding="stochastic").gemm(a, b, seed=7)).any()


def test_few_random_bits_are_warned_of():
    for bits in (9, 1):
        with pytest.warns(
            FewRandomBits, match=rf"random_bits is {bits}: every sum loses 2\*\*-{bits + 1} of a step"
        ):
            ChunkedFloat(rounding="stochastic", random_bits=bits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ChunkedFloat(rounding="stochastic", random_bits=10)
        ChunkedFloat(random_bits=9)  # to nearest, which draws nothing
        ChunkedFloat(rounding="stochastic-c", random_bits=1)  # loses nothing


def test_the_list_of_arithmetics():
    assert ARITHMETICS["chunked_float"] is ChunkedFloat
    assert ChunkedFloat().result is ChunkedFloat().accumulator
    assert ChunkedFloat() == ChunkedFloat(rounding="nearest")
