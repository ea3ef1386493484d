"""The processing element: sums of every kind, folds, bubbles and the shift chain against exact fractions."""

from __future__ import annotations

from functools import cache
from typing import Any

import cocotb
import numpy as np

from quaver.golden import exact
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.rounding import Rounding
from quaver.sim.benches.bench import Bench
from quaver.sim.benches.element import FOLD, FOLD_FIRST, Element, Schedule, check, pairs_by_class
from quaver.sim.coverage import PECoverage

VARIANTS = {
    "pe": lambda: Element(ChunkedFloat(chunk=8), 4),
    "pe 1 stage": lambda: Element(ChunkedFloat(chunk=8), 1),
    "pe stochastic, 3 stages": lambda: Element(ChunkedFloat(chunk=8, rounding=Rounding.STOCHASTIC), 3),
}
#: How a chunk's operands are chosen. "any class": the product's class first, each as often as another.
#: "far apart": so that sums have bits far below what is kept, and every random bit decides something.
FLAVOURS = ("ordinary", "far apart", "huge", "cancelling", "tiny", "tiny, then any class", "any class")


class ChunkedSchedule(Schedule):
    """Products and folds of a `ChunkedFloat`."""

    coverage: PECoverage

    def __init__(self, unit: Element, arithmetic: ChunkedFloat, rng: np.random.Generator) -> None:
        super().__init__(unit, rng, PECoverage(arithmetic, unit.pe.interleave), FLAVOURS, outputs=600)
        self.arithmetic = arithmetic
        fmt, result = arithmetic.operand, arithmetic.accumulator
        values = fmt.decode(np.arange(1 << fmt.width, dtype=fmt.code_dtype)).astype(np.float64)
        with np.errstate(invalid="ignore"):
            self.products = result.encode(np.multiply.outer(values, values)).tolist()
        self.pairs = pairs_by_class(fmt, fmt, lambda a, b: self.products[a][b], result)
        self.decode = cache(lambda code: exact.decode(result, code))

    def step(self, flavour: str | None, bubble: str | None = None) -> None:
        """A product a lane, or bubbles."""
        if flavour is None:
            self.coverage.hit("bubble", "a whole step")
        for lane in range(self.lanes):
            a, b = self.arithmetic.identity if flavour is None else self._operands(flavour, lane)
            addend = self.products[a][b]
            random = self._cycle(0, a, b, (self.partial[lane], addend))
            if (a, b) == self.arithmetic.identity:
                self.coverage.bubble(self.partial[lane])
                if bubble:
                    self.coverage.hit("bubble", bubble)
            self.coverage.multiply(self.partial[lane], a, b, addend, random)
            self.partial[lane] = self._add(self.partial[lane], addend, random)

    def fold(self, first: bool) -> None:
        """A fold a lane, with anything as operands."""
        for lane in range(self.lanes):
            a, b = self.rng.integers(0, 1 << self.arithmetic.operand.width, 2).tolist()
            summands = 0 if first else self.total[lane], self.partial[lane]
            random = self._cycle(FOLD_FIRST if first else FOLD, a, b, summands)
            self.coverage.fold(self.total[lane], self.partial[lane], first, random)
            self.total[lane] = self._add(*summands, random)
            self.partial[lane] = 0
            if self.total.count(self.total[lane]) == 1:
                self.coverage.hit("lane", str(lane))

    def _cycle(self, control: int, a: int, b: int, summands: tuple[int, int]) -> int:
        """One cycle of stimulus, in which these are added; returns its random bits, which now and then just
        do, or just do not, change the sum."""
        row: dict[str, int] = {}
        if self.arithmetic.stochastic:
            bits = self.arithmetic.random_bits
            row["a_random"], row["b_random"] = self.rng.integers(0, 1 << bits, 2).tolist()
            row["diagonal"] = int(self.rng.integers(1, 1 << 32))
            if self.rng.random() < 0.3:
                drawn = row["a_random"] ^ row["b_random"] ^ row["diagonal"] & (1 << bits) - 1
                row["a_random"] ^= drawn ^ max(0, self._brink(*summands) - int(self.rng.integers(2)))
        self.give(control, a, b, **row)
        random = row.get("a_random", 0) ^ row.get("b_random", 0) ^ row.get("diagonal", 0)
        return random & ((1 << self.arithmetic.random_bits) - 1)

    def _brink(self, x: int, y: int) -> int:
        """The smallest random number with which a sum is another than with 0, if there is one."""
        below, above = 0, (1 << self.arithmetic.random_bits) - 1
        plain = self._add(x, y, 0)
        while below < above:
            middle = (below + above) // 2
            if self._add(x, y, middle) == plain:
                below = middle + 1
            else:
                above = middle
        return below

    def _add(self, x: int, y: int, random: int) -> int:
        arithmetic = self.arithmetic
        total = exact.add(self.decode(x), self.decode(y))
        return exact.encode(
            arithmetic.accumulator, total, arithmetic.rounding, random, arithmetic.random_bits
        )

    def _operands(self, flavour: str, lane: int) -> tuple[int, int]:
        """Operand codes of one of FLAVOURS; now and then a lane has a bubble."""
        fmt, rng = self.arithmetic.operand, self.rng
        if rng.random() < 0.05:
            return self.arithmetic.identity
        if flavour == "ordinary":
            a, b = fmt.encode(rng.normal(0, 1, 2)).tolist()
        elif flavour == "far apart":
            a, b = fmt.encode(rng.normal(0, 1, 2) * np.exp2(rng.integers(-9, 8, 2))).tolist()
        elif flavour == "huge":
            a, b = (fmt.max_code - rng.integers(0, 4, 2) | fmt.sign_code * rng.integers(0, 2, 2)).tolist()
        elif flavour == "cancelling":
            partial = float(self.decode(self.partial[lane]))
            power = 2.0 ** rng.integers(-3, 4)
            a, b = fmt.encode([-partial / power if partial == partial else 1.0, power]).tolist()
        else:
            kinds = ("+subnormal", "−subnormal", "+0", "−0") if flavour.startswith("tiny") else self.pairs
            choice = self.pairs[str(rng.choice(list(kinds)))]
            a, b = choice[int(rng.integers(0, len(choice)))]
        return a, b


@cocotb.test()
async def sums_and_chain(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        schedule = ChunkedSchedule(bench.unit, bench.unit.arithmetic, bench.rng)
        await check(dut, bench, schedule)
        schedule.coverage.close()
        bench.cover(schedule.coverage)
