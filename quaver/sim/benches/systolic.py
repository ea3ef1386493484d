"""The systolic array: tiles of odd shapes, back to back and with bubbles, against the golden GEMM."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import cocotb
import numpy as np

from quaver.golden.arithmetic.bitstream import COLUMN_STREAMS, ROW_STREAMS, Bitstream
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.contracts import Draws
from quaver.golden.formats import SignMagnitudeFormat
from quaver.golden.lfsr import LFSR
from quaver.golden.random_bits import States, states_of
from quaver.golden.rounding import Rounding
from quaver.rtl.array.systolic import SystolicArray
from quaver.sim.benches.bench import Bench, start, trace

VARIANTS = {
    "systolic": lambda: SystolicArray(ChunkedFloat(chunk=8), 3, 2, 4),
    "systolic 1 x 1, 1 stage": lambda: SystolicArray(ChunkedFloat(), 1, 1, 1),
    "systolic 2 x 3, stochastic": lambda: SystolicArray(
        ChunkedFloat(chunk=5, rounding=Rounding.STOCHASTIC, random_bits=10), 2, 3, 2
    ),
    "systolic 1 x 1, stochastic": lambda: SystolicArray(
        ChunkedFloat(rounding=Rounding.STOCHASTIC, random_bits=9), 1, 1, 4
    ),
    "systolic 5 x 2, 3 stages": lambda: SystolicArray(ChunkedFloat(chunk=16), 5, 2, 3),
    "systolic 2 x 3, bitstream": lambda: SystolicArray(
        Bitstream(SignMagnitudeFormat(6), SignMagnitudeFormat(9), 32, generator="van_der_corput"), 2, 3, 2
    ),
    "systolic 3 x 2, xnor": lambda: SystolicArray(
        Bitstream(SignMagnitudeFormat(9), SignMagnitudeFormat(6), 16, "xnor"), 3, 2, 4
    ),
}
#: Lengths of K: single products, whole and broken chunks of every variant.
LENGTHS = (1, 2, 8, 9, 63, 64, 65, 3, 130)
#: Results at least; the lengths are gone through as often as that takes.
RESULTS = 150
FOLD, FIRST, LAST, BEGIN = 1, 2, 4, 8


def corner_states(array: SystolicArray, seed: int, row: int, column: int) -> Iterator[States]:
    """The states at the corner of a tile whose first output is (row, column): one for each of its sums, or
    for each cycle of its products."""
    arithmetic: Any = array.arithmetic
    if arithmetic.draws is Draws.SUMS:
        yield from states_of(seed, row, column)
    elif arithmetic.draws is Draws.OPERANDS:
        x, y, _ = arithmetic.sources(seed, row, column)
        of_row, of_column, element = LFSR(x, ROW_STREAMS.taps), LFSR(y, COLUMN_STREAMS.taps), array.element
        while True:
            of_row.draw(element.draws[0])
            of_column.draw(element.draws[1])
            yield from repeat((of_row.state, of_column.state, 0), element.cycles_a_draw)
    else:
        yield from repeat((0, 0, 0))


class Schedule:
    """Cycles of stimulus for an array: `control` of its corner; `rows`, `columns` before the skew."""

    def __init__(self, array: SystolicArray, rng: np.random.Generator) -> None:
        self.array, self.rng = array, rng
        self.arithmetic: Any = array.arithmetic
        self.control: list[int] = []
        a, b = array.arithmetic.identity or (0, 0)
        # Codes at the edges for each cycle, before the skew, and the states of the random sources at the
        # corner.
        self.rows: list[list[int]] = []
        self.columns: list[list[int]] = []
        self.random: list[int] = []
        self.idle = [a] * array.rows, [b] * array.columns
        self.last_fold = -(10**6)
        if self.arithmetic.identity is None:  # what the elements have counted before this reaches them
            self._step(FOLD, [([0] * array.rows, [0] * array.columns, 0)] * array.step)

    def bubble(self) -> None:
        cycle, counts = (*self.idle, int(self.rng.integers(1 << 62))), self.arithmetic.identity is None
        self._step(FOLD * counts, [cycle] * self.array.step, begins=not counts)

    def tile(self, a: np.ndarray, b: np.ndarray, place: tuple[int, int], seed: int, bubbles: float) -> None:
        """One tile: `a` (rows, K) and `b` (K, columns · L) codes, whose first result is C[place]."""
        array, lanes, chunk = self.array, self.array.interleave, self.array.arithmetic.chunk
        k_total = a.shape[1]
        states = [
            corner_states(array, seed, place[0], place[1] + lane * array.columns) for lane in range(lanes)
        ]

        def step(control: int, k: int | None) -> None:
            cycles = []
            for lane in range(lanes):
                js = [lane * array.columns + c for c in range(array.columns)]
                rows = [0] * array.rows if k is None else a[:, k].tolist()
                columns = [0] * array.columns if k is None else b[k, js].tolist()
                for _ in range(array.product_cycles):
                    # Operands draw nothing in a fold, and nobody looks.
                    draws = k is not None or self.arithmetic.draws is Draws.SUMS
                    row, column, diagonal = next(states[lane]) if draws else (5, 7, 9)
                    cycles.append((rows, columns, row | column << 32 | diagonal << 64))
            self._step(control, cycles)

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

    def _step(
        self, control: int, cycles: list[tuple[list[int], list[int], int]], begins: bool = True
    ) -> None:
        several = self.array.product_cycles > 1 and begins
        for cycle, (rows, columns, random) in enumerate(cycles):
            begin = several and cycle % self.array.product_cycles == 0
            self.control.append(control | BEGIN * begin)
            self.rows.append(rows)
            self.columns.append(columns)
            self.random.append(random)

    def inputs(self) -> dict[str, list[int]]:
        """The ports' values, skewed and packed."""
        cycles = len(self.control)

        def packed(edge: list[list[int]], idle: list[int], width: int) -> list[int]:
            return [
                sum((edge[t - i][i] if t >= i else idle[i]) << (i * width) for i in range(len(idle)))
                for t in range(cycles)
            ]

        ports = {
            "control": self.control,
            "a": packed(self.rows, self.idle[0], self.arithmetic.a.width),
            "b": packed(self.columns, self.idle[1], self.arithmetic.b.width),
        }
        return ports | ({"random": self.random} if self.arithmetic.stochastic else {})


def operands(
    arithmetic: Any, index: int, shapes: tuple[tuple[int, int], tuple[int, int]], rng: np.random.Generator
) -> list[np.ndarray]:
    """Codes for the tile of an index: ordinary numbers; numbers far apart, so that every random bit decides
    something; codes of every kind, infinities and NaN among them."""
    codes = []
    for fmt, shape in zip((arithmetic.a, arithmetic.b), shapes, strict=True):
        values = rng.normal(0, 1, shape)
        if index % 3 == 1:
            values *= np.exp2(rng.integers(-9, 8, shape))
        if index % 3 == 2:
            codes.append(rng.integers(0, 1 << fmt.width, shape).astype(fmt.code_dtype))
        else:
            codes.append(fmt.encode(values))
    return codes


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
            shapes = (i0 + array.rows, k), (k, j0 + array.columns * lanes)
            a, b = operands(arithmetic, index, shapes, rng)
            seed = int(rng.integers(1, 1 << 32))
            schedule.tile(a[i0:], b[:, j0:], (i0, j0), seed, bubbles=0.2 * (index % 2))
            whole = arithmetic.gemm(a, b, seed=seed if arithmetic.stochastic else None)
            expected.append((k, whole[i0:, j0:]))
        for _ in range(2 * array.drain // array.step + array.columns + 2):
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
