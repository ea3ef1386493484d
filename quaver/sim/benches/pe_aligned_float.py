"""The fused dot product: groups of every kind, folds, bubbles and the shift chain against exact fractions."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np

from quaver.golden import exact
from quaver.golden.arithmetic.aligned_float import AlignedFloat
from quaver.golden.contracts import Arithmetic
from quaver.golden.formats import FP8, FP16, FloatFormat
from quaver.sim.benches.bench import Bench
from quaver.sim.benches.element import FOLD, FOLD_FIRST, Element, Schedule, check, pairs_by_class
from quaver.sim.coverage import AlignedCoverage

VARIANTS = {
    "pe_aligned_float": lambda: Element(AlignedFloat(FP8, FP8, 4, 10, FP16, 32, FP16), 4),
    "pe_aligned_float 16 products, 6 stages": lambda: Element(
        AlignedFloat(FP8, FP8, 16, 10, FP16, 128, rounding="nearest"), 6
    ),
    "pe_aligned_float 32 products": lambda: Element(AlignedFloat(chunk=256), 4),
}
#: How a group's operands are chosen. "any class": a product or two of it, each class as often as another.
FLAVOURS = ("ordinary", "wide", "huge", "cancelling", "tiny", "tiny, then any class", "any class")
#: Outputs of all lanes together.
OUTPUTS = 250


class AlignedSchedule(Schedule):
    """Groups of products, and folds, of an `AlignedFloat`."""

    coverage: AlignedCoverage

    def __init__(self, unit: Element, arithmetic: AlignedFloat, rng: np.random.Generator) -> None:
        coverage = AlignedCoverage(arithmetic, unit.pe.interleave)
        super().__init__(unit, rng, coverage, FLAVOURS, OUTPUTS)
        self.arithmetic = arithmetic
        a, b, acc = arithmetic.a, arithmetic.b, arithmetic.accumulator

        def product(x: int, y: int) -> int:
            return exact.encode(acc, exact.multiply(exact.decode(a, x), exact.decode(b, y)))

        self.pairs = pairs_by_class(a, b, product, acc)

    def step(self, flavour: str | None, bubble: str | None = None) -> None:
        """A group of products a lane, or bubbles."""
        if flavour is None:
            self.coverage.hit("bubble", "a whole step")
        for lane in range(self.lanes):
            nothing = [self.arithmetic.identity] * self.arithmetic.group
            pairs = nothing if flavour is None else self._operands(flavour, lane)
            if pairs == nothing:
                self.coverage.bubble(self.partial[lane])
                if bubble:
                    self.coverage.hit("bubble", bubble)
            self.give(0, *self._packed(pairs))
            new = self.arithmetic.fused(self.partial[lane], pairs)
            self.coverage.step(self.partial[lane], pairs, new)
            self.partial[lane] = new

    def fold(self, first: bool) -> None:
        """A fold a lane, with anything as operands."""
        acc, total = self.arithmetic.accumulator, self.arithmetic.total
        for lane in range(self.lanes):
            self.give(FOLD_FIRST if first else FOLD, *self._packed(self._operands("any class", lane)))
            self.coverage.fold(self.total[lane], self.partial[lane], first)
            before = 0 if first else self.total[lane]
            value = exact.add(exact.decode(total, before), exact.decode(acc, self.partial[lane]))
            self.total[lane] = exact.encode(total, value, self.arithmetic.total_rounding)
            self.partial[lane] = 0
            if self.total.count(self.total[lane]) == 1:
                self.coverage.hit("lane", str(lane))

    def _packed(self, pairs: list[tuple[int, int]]) -> tuple[int, int]:
        """The operands side by side, the first lowest."""
        ar = self.arithmetic
        a = sum(x << ar.a.width * i for i, (x, _) in enumerate(pairs))
        return a, sum(y << ar.b.width * i for i, (_, y) in enumerate(pairs))

    def _operands(self, flavour: str, lane: int) -> list[tuple[int, int]]:
        """Operand codes of one of FLAVOURS; now and then a lane has a bubble."""
        ar, rng = self.arithmetic, self.rng
        group, nothing = ar.group, ar.identity
        if rng.random() < 0.05:
            return [nothing] * group
        if flavour == "wide":
            spread = 2.0 ** (rng.integers(-6, 7, (2, group)) + rng.integers(-6, 7))
            return self._encoded(rng.normal(0, 1, (2, group)) * spread)
        if flavour == "huge":
            return [(self._huge(ar.a), self._huge(ar.b)) for _ in range(group)]
        if flavour == "cancelling":
            return self._cancelling(lane)
        if flavour.startswith("tiny"):
            return [self._of_class(("+subnormal", "−subnormal", "+0", "−0")) for _ in range(group)]
        pairs = self._encoded(rng.normal(0, 1, (2, group)))
        if flavour == "any class":
            opposite = "−infinity" in self.pairs and rng.random() < 0.1
            names = [("+infinity",), ("−infinity",)] if opposite else [tuple(self.pairs)] * 2
            for place, kinds in zip(rng.integers(0, group, int(rng.integers(1, 3))), names, strict=False):
                pairs[place] = self._of_class(kinds)
        return pairs

    def _encoded(self, values: np.ndarray) -> list[tuple[int, int]]:
        ar = self.arithmetic
        return list(zip(ar.a.encode(values[0]).tolist(), ar.b.encode(values[1]).tolist(), strict=True))

    def _huge(self, fmt: FloatFormat) -> int:
        return fmt.max_code - int(self.rng.integers(0, 4)) | fmt.sign_code * int(self.rng.integers(0, 2))

    def _of_class(self, names: tuple[str, ...]) -> tuple[int, int]:
        choice = self.pairs[str(self.rng.choice([name for name in names if name in self.pairs]))]
        return choice[int(self.rng.integers(0, len(choice)))]

    def _cancelling(self, lane: int) -> list[tuple[int, int]]:
        """Something like −sum and, in pairs, products and their negations; or the sum alone, cancelled."""
        ar, rng = self.arithmetic, self.rng
        sign, pairs = ar.a.sign_code, [ar.identity] * ar.group
        partial = float(exact.decode(ar.accumulator, self.partial[lane]))
        power = 2.0 ** rng.integers(-3, 4)
        if np.isfinite(partial):
            pairs[:1] = self._encoded(np.array([[-partial / power], [power]]))
        if rng.random() < 0.5:
            for i in range(1, ar.group - 1, 2):
                pairs[i] = self._of_class(("+normal", "−normal"))
                pairs[i + 1] = pairs[i][0] ^ sign, pairs[i][1]
        return pairs


@cocotb.test()
async def groups_and_chain(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        unit: Element = bench.unit
        arithmetic: Arithmetic = unit.arithmetic
        assert isinstance(arithmetic, AlignedFloat)
        schedule = AlignedSchedule(unit, arithmetic, bench.rng)
        await check(dut, bench, schedule)
        bench.cover(schedule.coverage)
