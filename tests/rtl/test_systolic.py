"""The array by itself, on its documented edges, against the golden model."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.formats import FP16, FloatFormat
from quaver.rtl.array.systolic import SystolicArray


def run(array: SystolicArray, tiles: list[tuple[np.ndarray, np.ndarray]], bubbles: float = 0.0) -> tuple:
    """Feed tiles one after the other: of each, the results, when they began, and when its last fold did."""
    lanes, identity = array.interleave, array.arithmetic.identity
    random = np.random.default_rng(1)
    steps: list[tuple] = []
    last_folds: list[int] = []

    def bubble() -> None:
        steps.append((None, None, {}))

    for a, b in tiles:
        k_total = a.shape[1]
        for k in range(k_total):
            while random.random() < bubbles:
                bubble()
            steps.append((a[:, k], b[k].reshape(lanes, array.columns), {}))
            if (k + 1) % array.arithmetic.chunk == 0 or k + 1 == k_total:
                while last_folds and len(steps) * lanes < last_folds[-1] + array.drain:
                    bubble()
                first, last = k < array.arithmetic.chunk, k + 1 == k_total
                if last:
                    last_folds.append(len(steps) * lanes)
                steps.append((None, None, {"fold": 1, "first": int(first), "last": int(last)}))
    cycles = len(steps) * lanes
    valid: list[int] = []
    out: list[list[int]] = [[] for _ in range(array.columns)]

    def step(t: int) -> tuple:
        return steps[t // lanes] if 0 <= t < cycles else (None, None, {})

    async def bench(ctx) -> None:
        for t in range(cycles + 2 * array.drain + array.columns):
            ctx.set(array.control, {"fold": 0, "first": 0, "last": 0} | step(t)[2])
            for r in range(array.rows):
                a = step(t - r)[0]
                ctx.set(array.a[r], identity[0] if a is None else int(a[r]))
            for c in range(array.columns):
                b = step(t - c)[1]
                ctx.set(array.b[c], identity[1] if b is None else int(b[(t - c) % lanes, c]))
            valid.append(ctx.get(array.valid))
            for c in range(min(array.columns, t + 1)):
                if valid[t - c]:
                    out[c].append(ctx.get(array.results[c]))
            await ctx.tick()

    simulator = Simulator(array)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    burst = array.rows * lanes
    starts = np.flatnonzero(valid)[::burst].tolist()
    codes = np.array(out).reshape(array.columns, len(tiles), array.rows, lanes)[:, :, ::-1]
    results = codes.transpose(1, 2, 3, 0).reshape(len(tiles), array.rows, lanes * array.columns)
    return results, starts, last_folds


def operands(array: SystolicArray, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes of every kind for one tile, infinities and NaN among them."""
    random, operand = np.random.default_rng(seed), array.arithmetic.operand
    shapes = (array.rows, k), (k, array.columns * array.interleave)
    a, b = (random.integers(0, 1 << operand.width, shape, operand.code_dtype) for shape in shapes)
    return a, b


@pytest.mark.parametrize(
    ("rows", "columns", "stages", "k"),
    [(1, 1, 1, 1), (1, 1, 4, 65), (2, 3, 2, 64), (3, 2, 4, 63), (1, 2, 3, 200)],
)
def test_one_tile(rows: int, columns: int, stages: int, k: int) -> None:
    array = SystolicArray(ChunkedFloat(), rows, columns, stages)
    a, b = operands(array, k)
    results, starts, last_folds = run(array, [(a, b)])
    assert np.array_equal(results[0], array.arithmetic.gemm(a, b))
    assert starts[0] - last_folds[0] == array.latency


@pytest.mark.parametrize(
    "arithmetic",
    [
        ChunkedFloat(chunk=8),
        ChunkedFloat(operand=FP16),
        ChunkedFloat(accumulator=FloatFormat(6, 5)),
        ChunkedFloat(chunk=1),
    ],
    ids=["chunk 8", "FP16 operands", "1-6-5 sums", "chunk 1"],
)
def test_other_arithmetics(arithmetic: ChunkedFloat) -> None:
    array = SystolicArray(arithmetic, 2, 2, 2)
    a, b = operands(array, 21)
    assert np.array_equal(run(array, [(a, b)])[0][0], arithmetic.gemm(a, b))


@pytest.mark.parametrize("bubbles", [0.0, 0.3])
def test_tiles_follow_each_other_as_close_as_drain_allows(bubbles: float) -> None:
    array = SystolicArray(ChunkedFloat(chunk=16), 3, 2, 2)
    tiles = [operands(array, k, seed=k) for k in (20, 9, 1, 2, 33, 1, 16)]
    results, starts, last_folds = run(array, tiles, bubbles)
    for result, (a, b) in zip(results, tiles, strict=True):
        assert np.array_equal(result, array.arithmetic.gemm(a, b))
    assert all(start - fold == array.latency for start, fold in zip(starts, last_folds, strict=True))
    if not bubbles:  # the short tiles came as close as they may
        assert min(np.diff(last_folds)) < array.drain + array.interleave


def test_folds_that_come_too_early_are_seen() -> None:
    """The test above can fail."""
    array = SystolicArray(ChunkedFloat(chunk=16), 3, 2, 2)
    tiles = [operands(array, 1, seed=k) for k in (1, 2, 3)]
    array.drain //= 2
    results = run(array, tiles)[0]
    golden = [array.arithmetic.gemm(a, b) for a, b in tiles]
    assert not np.array_equal(results, golden)


@pytest.mark.parametrize(("rows", "columns"), [(0, 1), (1, 0), (-1, 2)])
def test_refuses_no_rows_or_columns(rows: int, columns: int) -> None:
    with pytest.raises(ValueError, match=f"an array of {rows} × {columns}, but it has at least one row and"):
        SystolicArray(ChunkedFloat(), rows, columns, 2)
