"""The processing element against the golden arithmetic: lanes, folds, bubbles, chain, random bits."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.formats import BFLOAT16, E4M3, FP8, FP16, FP32, HALF, FloatFormat, hfp8
from quaver.golden.random_bits import states_of
from quaver.rtl.pe import pe_for
from quaver.rtl.pe.chunked_float import ChunkedFloatPE

SEED = 2018


def random_codes(fmt, shape, rng, wild):
    if wild:  # any code, infinity and NaN included
        return rng.integers(0, 1 << fmt.width, shape).astype(fmt.code_dtype)
    return fmt.encode(rng.standard_normal(shape))


def run(pe, tiles, bubbles=None):
    """The codes of each tile (A of shape (1, K), B of shape (K, L)), the way the array drives the element."""
    arithmetic, lanes = pe.arithmetic, pe.interleave
    m = Module()
    m.submodules.pe = pe
    m.submodules.entry_a, m.submodules.entry_b = entry_a, entry_b = pe.entry_a(), pe.entry_b()
    m.submodules.exit = foot = pe.exit()
    m.d.comb += [pe.a.eq(entry_a.number), pe.b.eq(entry_b.number), foot.number.eq(pe.chain_out)]
    results = []

    async def bench(ctx):
        async def group(a, bs, fold=0, first=0, draws=None):
            for lane in range(lanes):
                ctx.set(pe.control, {"fold": fold, "first": first})
                ctx.set(entry_a.code, int(a))
                ctx.set(entry_b.code, int(bs[lane]))
                if draws is not None:
                    row, column, diagonal = next(draws[lane])
                    ctx.set(pe.a_random, row & (1 << arithmetic.random_bits) - 1)
                    ctx.set(pe.b_random, column & (1 << arithmetic.random_bits) - 1)
                    ctx.set(pe.diagonal, diagonal)
                await ctx.tick()

        idle_a, idle_b = arithmetic.identity
        for a, b in tiles:
            k_count = b.shape[0]
            draws = [states_of(SEED, 0, j) for j in range(lanes)] if arithmetic.stochastic else None
            first = 1
            for k in range(k_count):
                while bubbles is not None and bubbles.random() < 0.3:
                    await group(idle_a, [idle_b] * lanes)
                await group(a[0, k], b[k], draws=draws)
                if (k + 1) % arithmetic.chunk == 0 or k == k_count - 1:
                    await group(0, [0] * lanes, fold=1, first=first, draws=draws)
                    first = 0
            for _ in range(-(-pe.latency // lanes)):  # the totals are there latency + L − 1 cycles after
                await group(idle_a, [idle_b] * lanes)  # the fold began
            tile = []
            for _ in range(lanes):
                ctx.set(pe.shift, 1)
                tile.append(ctx.get(foot.code))
                await ctx.tick()
            ctx.set(pe.shift, 0)
            results.append(tile)

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return np.array(results)


def assert_golden(arithmetic, stages, k_counts, wild=False, bubbles=None):
    rng = np.random.default_rng(stages)
    pe = pe_for(arithmetic, stages=stages)
    tiles = [
        (
            random_codes(arithmetic.operand, (1, k), rng, wild),
            random_codes(arithmetic.operand, (k, pe.interleave), rng, wild),
        )
        for k in k_counts
    ]
    seed = {"seed": SEED} if pe.arithmetic.stochastic else {}
    want = np.concatenate([arithmetic.gemm(a, b, **seed) for a, b in tiles])
    np.testing.assert_array_equal(run(pe, tiles, bubbles), want)


@pytest.mark.parametrize("stages", range(1, 8))
def test_every_depth(stages):
    assert_golden(ChunkedFloat(chunk=5), stages, [1, 2, 5, 6, 23])


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_chunks(chunk):
    assert_golden(ChunkedFloat(chunk=chunk), 4, [1, 7, 8, 65])


def test_bubbles_change_nothing():
    assert_golden(ChunkedFloat(chunk=4), 4, [3, 9, 20], bubbles=np.random.default_rng(0))


@pytest.mark.parametrize("operand", [FP8, E4M3, FP16], ids=str)
def test_infinity_and_nan(operand):
    assert_golden(ChunkedFloat(operand=operand, chunk=2), 4, [1, 2, 3, 4] * 8, wild=True)


@pytest.mark.parametrize(
    ("operand", "accumulator"),
    [
        (FP16, FP16),
        (E4M3, BFLOAT16),
        (hfp8(), HALF),
        (FP8, FP8),
        (FP8, E4M3),
        (FP8, FP16.replace(saturate=True)),
    ],
    ids=str,
)
def test_other_formats(operand, accumulator):
    assert_golden(ChunkedFloat(operand=operand, accumulator=accumulator, chunk=8), 3, [4, 40])


@pytest.mark.parametrize("operand", [FP8, FP16], ids=str)
@pytest.mark.parametrize("bits", [1, 8, 14])
@pytest.mark.filterwarnings("ignore::quaver.golden.arithmetic.chunked_float.FewRandomBits")
def test_stochastic(operand, bits):
    assert_golden(ChunkedFloat(operand=operand, chunk=8, rounding="stochastic", random_bits=bits), 4, [3, 40])


def test_refusals():
    with pytest.raises(ValueError, match=r"^stages is 0, but the adder of a processing element has 1 to 7$"):
        ChunkedFloatPE(ChunkedFloat(), stages=0)
    with pytest.raises(TypeError, match=r"has no processing element; there is one for chunked_float"):
        pe_for("fixed_point")


@pytest.mark.parametrize(
    "arithmetic",
    [
        ChunkedFloat(chunk=4, total=FP32),
        ChunkedFloat(chunk=3, total=BFLOAT16),
        ChunkedFloat(chunk=4, total=FP32, rounding="stochastic"),
        ChunkedFloat(FP16, FP16, 4, total=FloatFormat(6, 12)),
        ChunkedFloat(FP8, BFLOAT16, 4, total=FP16),
    ],
    ids=lambda arithmetic: f"{arithmetic.operand} {arithmetic.accumulator} {arithmetic.total}",
)
def test_totals_of_a_format_of_their_own(arithmetic):
    rng = np.random.default_rng(7)
    pe = ChunkedFloatPE(arithmetic, stages=3)
    fmt = arithmetic.operand
    tiles = [
        (random_codes(fmt, (1, k), rng, wild), random_codes(fmt, (k, 3), rng, wild))
        for k, wild in ((1, False), (9, False), (23, False), (7, True), (12, True))
    ]
    seed = {"seed": SEED} if arithmetic.stochastic else {}
    for (a, b), codes in zip(tiles, run(pe, tiles), strict=True):
        np.testing.assert_array_equal(codes, arithmetic.gemm(a, b, **seed)[0])


@pytest.mark.parametrize("stages", [1, 2, 5])
@pytest.mark.parametrize("total", [FP32, FloatFormat(7, 5), FloatFormat(7, 9)], ids=str)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_totals_below_whose_sums_are_subnormal(stages, total, rounding):
    arithmetic = ChunkedFloat(FP16, FloatFormat(5, 9), 4, rounding, total=total)
    rng = np.random.default_rng(stages)
    pe = ChunkedFloatPE(arithmetic, stages=stages)
    assert pe.waits == 1
    tiles = [
        tuple(FP16.encode(rng.standard_normal(shape) * 2.0**scale) for shape in ((1, k), (k, stages)))
        for k, scale in ((1, -8), (9, -8), (14, -10), (13, 0), (14, -12))
    ]
    seed = {"seed": SEED} if arithmetic.stochastic else {}
    sums = [arithmetic.definition(a, b, **seed)[0] for a, b in tiles]
    np.testing.assert_array_equal(run(pe, tiles), sums)
    values = np.abs(total.decode(sums))
    assert (values[(values > 0)] < 2.0**arithmetic.accumulator.min_exponent).any()
