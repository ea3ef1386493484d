"""The systolic array: tiles of odd shapes, back to back and with bubbles, against the golden GEMM."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.lfsr import COLUMN_TAPS, LFSR, TAPS, numbered_seed
from quaver.golden.rounding import Rounding
from quaver.rtl.array.systolic import SystolicArray
from quaver.sim.benches.bench import Bench, start, trace

VARIANTS = {
    "systolic": lambda: SystolicArray(ChunkedFloat(chunk=8), 3, 2, 4),
    "systolic 1 x 1, 1 stage": lambda: SystolicArray(ChunkedFloat(), 1, 1, 1),
    "systolic 2 x 3, stochastic": lambda: SystolicArray(
        ChunkedFloat(chunk=5, rounding=Rounding.STOCHASTIC), 2, 3, 2
    ),
    "systolic 1 x 1, stochastic": lambda: SystolicArray(
        ChunkedFloat(rounding=Rounding.STOCHASTIC, random_bits=9), 1, 1, 4
    ),
    "systolic 5 x 2, 3 stages": lambda: SystolicArray(ChunkedFloat(chunk=16), 5, 2, 3),
}
#: Lengths of K: single products, whole and broken chunks of every variant.
LENGTHS = (1, 2, 8, 9, 63, 64, 65, 3, 130)
#: Results at least; the lengths are gone through as often as that takes.
RESULTS = 150
FOLD, FIRST, LAST = 1, 2, 4


class Schedule:
    """Cycles of stimulus for an array: `control` of its corner; `rows`, `columns` before the skew."""

    def __init__(self, array: SystolicArray, rng: np.random.Generator) -> None:
        self.array, self.rng = array, rng
        self.arithmetic: Any = array.arithmetic
        self.control: list[int] = []
        a, b = array.arithmetic.identity
        # One row of the edges for each cycle, before the skew; codes and, where stochastic, random bits.
        self.rows: list[list[tuple[int, int]]] = []
        self.columns: list[list[tuple[int, int]]] = []
        self.idle = ([(a, 0)] * array.rows, [(b, 0)] * array.columns)
        self.last_fold = -(10**6)

    def bubble(self) -> None:
        self._step(0, [self.idle] * self.array.interleave)

    def tile(self, a: np.ndarray, b: np.ndarray, place: tuple[int, int], seed: int, bubbles: float) -> None:
        """One tile: `a` (rows, K) and `b` (K, columns · L) codes, whose first result is C[place]."""
        array, lanes, chunk = self.array, self.array.interleave, self.array.arithmetic.chunk
        k_total, roundings = a.shape[1], self.arithmetic.roundings(a.shape[1])
        x = np.zeros((len(a), roundings), int)
        y = np.zeros((b.shape[1], roundings), int)
        if self.arithmetic.stochastic:
            bits = self.arithmetic.random_bits
            i0, j0 = place
            x = np.array(
                [LFSR(numbered_seed(seed, i0 + i), TAPS).draws(roundings, bits) for i in range(len(x))]
            )
            y = np.array(
                [
                    LFSR(numbered_seed(seed ^ 0xFFFFFFFF, j0 + j), COLUMN_TAPS).draws(roundings, bits)
                    for j in range(len(y))
                ]
            )
        rounding = 0

        def step(control: int, k: int | None) -> None:
            nonlocal rounding
            cycles = []
            for lane in range(lanes):
                js = [lane * array.columns + c for c in range(array.columns)]
                row_codes = [0] * array.rows if k is None else a[:, k].tolist()
                column_codes = [0] * array.columns if k is None else b[k, js].tolist()
                cycles.append(
                    (
                        list(zip(row_codes, x[:, rounding].tolist(), strict=True)),
                        list(zip(column_codes, y[js, rounding].tolist(), strict=True)),
                    )
                )
            self._step(control, cycles)
            rounding += 1

        for k in range(k_total):
            while self.rng.random() < bubbles:
                self.bubble()
            step(0, k)
            if (k + 1) % chunk == 0 or k + 1 == k_total:
                last = LAST * (k + 1 == k_total)
                while len(self.control) < self.last_fold + array.drain:
                    self.bubble()
                if last:
                    self.last_fold = len(self.control)
                step(FOLD | FIRST * (k < chunk) | last, None)

    def _step(self, control: int, cycles: list[tuple[list[tuple[int, int]], list[tuple[int, int]]]]) -> None:
        for rows, columns in cycles:
            self.control.append(control)
            self.rows.append(rows)
            self.columns.append(columns)

    def inputs(self) -> dict[str, list[int]]:
        """The ports' values, skewed and packed."""
        cycles = len(self.control)

        def packed(
            edge: list[list[tuple[int, int]]], idle: list[tuple[int, int]], which: int, width: int
        ) -> list[int]:
            words = []
            for t in range(cycles):
                word = 0
                for i in range(len(idle)):
                    entry = edge[t - i][i] if t >= i else idle[i]
                    word |= entry[which] << (i * width)
                words.append(word)
            return words

        ports = {
            "control": self.control,
            "a": packed(self.rows, self.idle[0], 0, self.arithmetic.a.width),
            "b": packed(self.columns, self.idle[1], 0, self.arithmetic.b.width),
        }
        if self.arithmetic.stochastic:
            bits = self.arithmetic.random_bits
            ports["a_random"] = packed(self.rows, self.idle[0], 1, bits)
            ports["b_random"] = packed(self.columns, self.idle[1], 1, bits)
        return ports


@cocotb.test()
async def tiles(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        array, rng = bench.unit, bench.rng
        arithmetic, lanes = array.arithmetic, array.interleave
        schedule, expected = Schedule(array, rng), []
        rounds = -(-RESULTS // (len(LENGTHS) * array.rows * array.columns * lanes))
        for index, k in enumerate(LENGTHS * rounds):
            # The tile is the lower right corner of a GEMM: random bits go by an output's place in that.
            i0, j0 = rng.integers(0, 7, 2).tolist()
            formats = arithmetic.a, arithmetic.b
            shapes = (i0 + array.rows, k), (k, j0 + array.columns * lanes)
            if index % 3 == 2:  # codes of every kind, infinities and NaN among them
                a, b = (
                    rng.integers(0, 1 << fmt.width, shape).astype(fmt.code_dtype)
                    for fmt, shape in zip(formats, shapes, strict=True)
                )
            else:
                a, b = (
                    fmt.encode(rng.normal(0, 1, shape)) for fmt, shape in zip(formats, shapes, strict=True)
                )
            seed = int(rng.integers(1, 1 << 32))
            schedule.tile(a[i0:], b[:, j0:], (i0, j0), seed, bubbles=0.2 * (index % 2))
            whole = arithmetic.gemm(a, b, seed=seed if arithmetic.stochastic else None)
            expected.append((k, whole[i0:, j0:]))
        for _ in range(2 * array.drain // lanes + array.columns + 2):
            schedule.bubble()
        inputs = schedule.inputs()
        await start(dut, inputs)
        seen = await trace(dut, ["valid", "results"], **inputs)
        width = arithmetic.result.width
        moments = [cycle for cycle, (valid, _) in enumerate(seen) if valid]
        bench.equal(len(expected) * array.rows * lanes, len(moments), what="cycles with results")
        moment = iter(moments)
        for tile, (k, c) in enumerate(expected):
            for i in reversed(range(array.rows)):
                for lane in range(lanes):
                    cycle = next(moment, None)
                    if cycle is None:
                        return
                    for column in range(array.columns):
                        got = seen[cycle + column][1] >> (column * width) & ((1 << width) - 1)
                        j = lane * array.columns + column
                        bench.equal(
                            int(c[i, j]), got, arithmetic.result, tile=tile, K=k, i=i, j=j, cycle=cycle
                        )
