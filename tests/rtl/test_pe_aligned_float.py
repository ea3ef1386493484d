"""The fused dot product against the golden arithmetic: groups, lanes, folds, specials, subnormal sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator
from test_aligned_float import codes

from quaver.golden.arithmetic import AlignedFloat, ChunkedFloat
from quaver.golden.arithmetic.chunked_float import NO_CHUNKS
from quaver.golden.formats import BFLOAT16, E4M3, FP8, FP16, FP32, FloatFormat
from quaver.host.driver import Driver
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.pe import pe_for
from quaver.rtl.pe.aligned_float import AlignedFloatPE
from quaver.sim.device import SimulatedDevice

E2M1 = FloatFormat(2, 1)


def run(pe: AlignedFloatPE, tiles: list[tuple[np.ndarray, np.ndarray]], bubbles: bool = False) -> np.ndarray:
    """The codes of each tile, A of shape (1, K) and B of shape (K, L), as the array drives the element."""
    arithmetic, lanes, group = pe.arithmetic, pe.interleave, pe.group
    m = Module()
    m.submodules.pe = pe
    m.submodules.entry_a, m.submodules.entry_b = entry_a, entry_b = pe.entry_a(), pe.entry_b()
    m.submodules.exit = foot = pe.exit()
    m.d.comb += [pe.a.eq(entry_a.number), pe.b.eq(entry_b.number), foot.number.eq(pe.chain_out)]
    results, random = [], np.random.default_rng(0)

    def packed(values: np.ndarray, width: int) -> int:
        return sum(int(value) << width * i for i, value in enumerate(values))

    async def bench(ctx) -> None:
        async def step(a: np.ndarray, b: np.ndarray, fold: int = 0, first: int = 0) -> None:
            for lane in range(lanes):
                ctx.set(pe.control, {"fold": fold, "first": first})
                ctx.set(entry_a.code, packed(a, arithmetic.a.width))
                ctx.set(entry_b.code, packed(b[:, lane], arithmetic.b.width))
                await ctx.tick()

        nothing = np.zeros(group, int), np.zeros((group, lanes), int)
        for a, b in tiles:
            k_count, first = len(b), 1
            for k in range(0, k_count, group):
                while bubbles and random.random() < 0.3:
                    await step(*nothing)
                await step(a[0, k : k + group], b[k : k + group])
                if (k + group) % arithmetic.chunk == 0 or k + group >= k_count:
                    anything = np.full(group, 3), np.full((group, lanes), 5)
                    await step(*anything, fold=1, first=first)
                    first = 0
            for _ in range(-(-pe.latency // lanes)):
                await step(*nothing)
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


def assert_golden(
    arithmetic: AlignedFloat, stages: int, kinds: tuple[str, ...], bubbles: bool = False
) -> None:
    rng = np.random.default_rng(stages)
    tiles = [
        (codes(arithmetic.a, kind, (1, k), rng), codes(arithmetic.b, kind, (k, stages), rng))
        for kind in kinds
        for k in (1, arithmetic.group, 3 * arithmetic.group + 1, 2 * min(arithmetic.chunk, 40) + 3)
    ]
    want = np.concatenate([arithmetic.gemm(a, b) for a, b in tiles])
    got = run(AlignedFloatPE(arithmetic, stages=stages), tiles, bubbles)
    np.testing.assert_array_equal(got, want)


SMALL = AlignedFloat(group=4, chunk=8)


@pytest.mark.parametrize("stages", range(1, 8))
def test_every_depth(stages: int) -> None:
    assert_golden(SMALL, stages, ("normal", "sparse"), bubbles=stages == 4)


@pytest.mark.parametrize(
    "arithmetic",
    [
        SMALL,
        AlignedFloat(FP8, E4M3, 8, 13, chunk=16),
        AlignedFloat(E4M3, E4M3, 4, 25, FP32, NO_CHUNKS),
        AlignedFloat(FP8, FP8, 2, 9, FP16, 4, FP16, rounding="nearest"),
        AlignedFloat(E4M3, E4M3, 3, 5, FloatFormat(4, 4), 6, FloatFormat(4, 6)),  # subnormal sums
        AlignedFloat(E4M3, E4M3, 3, 3, FloatFormat(3, 3), 6, FloatFormat(3, 3), rounding="nearest"),
        AlignedFloat(E4M3, E4M3, 2, 4, FloatFormat(4, 4), 6, FP32),  # normalised on their way to the total
        AlignedFloat(E4M3, E4M3, 2, 4, FloatFormat(4, 4), 6, FloatFormat(5, 2)),
        AlignedFloat(E4M3, FP8, 2, 13, chunk=4, total=E4M3),  # totals that saturate, and have no infinity
        pytest.param(AlignedFloat(BFLOAT16, BFLOAT16, 2, 25, FP32, NO_CHUNKS), marks=pytest.mark.slow),
        # No total but 0 and infinity: the least of them is above the largest value.
        AlignedFloat(FP8, FP16, 2, 4, FloatFormat(3, 4, bias=-40), 4, FloatFormat(5, 2)),
    ],
    ids=lambda one: f"{one.a} {one.b} {one.group} {one.fraction_bits} {one.accumulator} {one.total}",
)
def test_every_class_of_operands(arithmetic: AlignedFloat) -> None:
    assert_golden(arithmetic, 3, ("any", "finite", "low", "sparse", "normal"))


@pytest.mark.parametrize(
    ("arithmetic", "stages"),
    [
        (AlignedFloat(E2M1, E2M1, 1, 9, FloatFormat(4, 6, bias=30), NO_CHUNKS, E2M1), 5),
        (AlignedFloat(FloatFormat(4, 3, bias=-20), E4M3, 3, 7, FloatFormat(2, 5), NO_CHUNKS, FP16), 6),
    ],
    ids=["5 stages", "6 stages"],
)
def test_sums_that_are_zero_or_infinite_only(arithmetic: AlignedFloat, stages: int) -> None:
    """The least sum but 0 is above the accumulator's largest value. Once zeros came out as numbers, and
    infinities without their sign, of an element of many stages after other tiles."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        tiles = [
            (codes(arithmetic.a, kind, (1, k), rng), codes(arithmetic.b, kind, (k, stages), rng))
            for kind in ("sparse", "any", "finite")
            for k in (1, 3, 7, 2)
        ]
        want = np.concatenate([arithmetic.gemm(a, b) for a, b in tiles])
        np.testing.assert_array_equal(run(AlignedFloatPE(arithmetic, stages=stages), tiles), want)


@pytest.mark.parametrize("group", [1, 8, *(pytest.param(n, marks=pytest.mark.slow) for n in (16, 32))])
def test_groups(group: int) -> None:
    arithmetic, rng = AlignedFloat(FP8, E4M3, group, chunk=2 * group), np.random.default_rng(group)
    pe = AlignedFloatPE(arithmetic, stages=5)
    assert pe.comparisons == {1: 1, 8: 2, 16: 2, 32: 3}[group]
    tiles = [
        (codes(FP8, kind, (1, k), rng), codes(E4M3, kind, (k, 5), rng))
        for kind, k in (("sparse", group), ("normal", 3 * group + 1), ("any", 2 * group), ("finite", 5))
    ]
    want = np.concatenate([arithmetic.definition(a, b) for a, b in tiles])
    np.testing.assert_array_equal(run(pe, tiles), want)


@pytest.mark.exhaustive
@pytest.mark.parametrize("rounding", AlignedFloat.ROUNDINGS)
@pytest.mark.parametrize(
    ("group", "accumulator", "total"),
    [
        (1, FloatFormat(3, 2), FloatFormat(3, 2)),
        (1, FloatFormat(3, 1), FloatFormat(4, 3)),
        (2, FloatFormat(3, 2), FloatFormat(4, 1)),
        (2, FloatFormat(2, 3), FloatFormat(3, 3)),
    ],
    ids=str,
)
def test_every_sum_of_two_products(
    group: int, accumulator: FloatFormat, total: FloatFormat, rounding: str
) -> None:
    """All codes of (1,2,1) in two products: one after the other, or at once."""
    small = FloatFormat(2, 1)
    arithmetic = AlignedFloat(small, small, group, 3, accumulator, 2, total, rounding=rounding)
    device = SimulatedDevice(Accelerator(arithmetic, rows=4, columns=4, stages=2, depth=8))
    first, second = (each.ravel() for each in np.indices((16, 16)))
    a = np.stack([first, second], 1).astype(np.uint8)
    b = np.ascontiguousarray(a.T)
    got = Driver(device, arithmetic).gemm(a, b)
    np.testing.assert_array_equal(got, arithmetic.gemm(a, b))
    np.testing.assert_array_equal(got[::7, ::5], arithmetic.definition(a[::7], b[:, ::5]))


@pytest.mark.slow
def test_an_accelerator_whose_elements_have_wide_ports() -> None:
    arithmetic = AlignedFloat(group=16, chunk=32)
    device = SimulatedDevice(Accelerator(arithmetic, rows=1, columns=2, stages=2, depth=8))
    driver, rng = Driver(device, arithmetic), np.random.default_rng(1)
    for kind in ("normal", "any", "sparse"):
        a, b = codes(arithmetic.a, kind, (3, 150), rng), codes(arithmetic.b, kind, (150, 5), rng)
        np.testing.assert_array_equal(driver.gemm(a, b), arithmetic.gemm(a, b))


def test_an_infinity_whose_significand_cancels_keeps_its_sign() -> None:
    arithmetic = AlignedFloat(FP8, FP8, 2, chunk=2)
    a = FP8.encode([[-3.0, 0.0, 0.0, -(2.0**15)]])
    a[0, 2] = FP8.infinity_code
    b = FP8.encode([[1.0], [0.0], [1.0], [2.0]])
    got = run(AlignedFloatPE(arithmetic, stages=1), [(a, b)])
    assert FP32.decode(got.astype(np.uint32))[0, 0] == np.inf
    np.testing.assert_array_equal(got, arithmetic.gemm(a, b))


def test_refusals() -> None:
    for change, message in (
        ({"aligning": "nearest"}, "aligning is nearest, but the hardware truncates terms; take truncate"),
        (
            {"total_rounding": "truncate"},
            "total_rounding is truncate, but the hardware adds totals to nearest",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            pe_for(replace(SMALL, **change))
    with pytest.raises(ValueError, match="stages is 9, but an aligned processing element has 1 to 7"):
        pe_for(SMALL, stages=9)
    assert pe_for(AlignedFloat()).group == 32


@pytest.mark.parametrize(
    "arithmetic",
    [SMALL, ChunkedFloat(chunk=8, total=FP32)],
    ids=lambda arithmetic: type(arithmetic).__name__,
)
def test_the_accelerator_is_golden(arithmetic: AlignedFloat | ChunkedFloat) -> None:
    device = SimulatedDevice(Accelerator(arithmetic, rows=2, columns=2, stages=2, depth=32))
    driver, rng = Driver(device, arithmetic), np.random.default_rng(1)
    for kind in ("normal", "any", "sparse"):
        for rows, k, columns in ((3, 50, 5), (1, 1, 1), (5, 131, 7)):  # in slices of K
            a, b = codes(arithmetic.a, kind, (rows, k), rng), codes(arithmetic.b, kind, (k, columns), rng)
            np.testing.assert_array_equal(driver.gemm(a, b), arithmetic.gemm(a, b))


def test_one_bit_more_is_seen() -> None:
    """The element does not equal one that keeps a bit more of every term."""
    rng = np.random.default_rng(2)
    tiles = [(codes(E4M3, "finite", (1, 64), rng), codes(E4M3, "finite", (64, 1), rng)) for _ in range(4)]
    other = replace(SMALL, fraction_bits=14)
    wrong = np.concatenate([other.gemm(a, b) for a, b in tiles])
    assert (run(AlignedFloatPE(SMALL, stages=1), tiles) != wrong).any()
