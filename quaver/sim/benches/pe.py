"""The processing element: sums of every kind, folds, bubbles and the shift chain against exact fractions."""

from __future__ import annotations

from functools import cache
from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden import exact
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.random_bits import DIAGONAL
from quaver.golden.rounding import Rounding
from quaver.rtl.pe.chunked_float import ChunkedFloatPE
from quaver.sim.benches.bench import Bench, coded, start, trace
from quaver.sim.coverage import PECoverage, operand_class

#: The element's ports for random bits.
RANDOM = ("a_random", "b_random", "diagonal")


class Element(wiring.Component):
    """A processing element between its entries and its exit, so that the bench speaks codes."""

    def __init__(self, arithmetic: ChunkedFloat, stages: int) -> None:
        self.arithmetic = arithmetic
        self.pe = ChunkedFloatPE(arithmetic, stages=stages)
        width = arithmetic.operand.width
        ports: dict[str, Any] = {
            "control": In(2),
            "a": In(width),
            "b": In(width),
            "shift": In(1),
            "chain_in": In(self.pe.sum.layout),
            "chain_out": Out(arithmetic.accumulator.width),
            "control_out": Out(2),
            "a_out": Out(self.pe.operand.layout),
            "b_out": Out(self.pe.operand.layout),
        }
        if arithmetic.stochastic:
            widths = dict(zip(RANDOM, (arithmetic.random_bits, arithmetic.random_bits, 32), strict=True))
            ports |= {name: In(width) for name, width in widths.items()}
            ports |= {f"{name}_out": Out(width) for name, width in widths.items()}
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.pe = pe = self.pe
        m.submodules.exit = leave = pe.exit()
        for name, entry in (("a", pe.entry_a()), ("b", pe.entry_b())):
            m.submodules[f"entry_{name}"] = entry
            m.d.comb += [entry.code.eq(getattr(self, name)), getattr(pe, name).eq(entry.number)]
            m.d.comb += getattr(self, f"{name}_out").eq(getattr(pe, f"{name}_out"))
        for name in RANDOM * self.arithmetic.stochastic:
            m.d.comb += getattr(pe, name).eq(getattr(self, name))
            m.d.comb += getattr(self, f"{name}_out").eq(getattr(pe, f"{name}_out"))
        m.d.comb += [
            pe.control.eq(self.control),
            self.control_out.eq(pe.control_out),
            pe.shift.eq(self.shift),
            pe.chain_in.eq(self.chain_in),
            leave.number.eq(pe.chain_out),
            self.chain_out.eq(leave.code),
        ]
        return m


VARIANTS = {
    "pe": lambda: Element(ChunkedFloat(chunk=8), 4),
    "pe 1 stage": lambda: Element(ChunkedFloat(chunk=8), 1),
    "pe stochastic, 3 stages": lambda: Element(ChunkedFloat(chunk=8, rounding=Rounding.STOCHASTIC), 3),
}
OUTPUTS = 600  # of all lanes together
FOLD, FOLD_FIRST = 1, 3
#: How a chunk's operands are chosen. "any class": the product's class first, each as often as another.
#: "far apart": so that sums have bits far below what is kept, and every random bit decides something.
FLAVOURS = ("ordinary", "far apart", "huge", "cancelling", "tiny", "tiny, then any class", "any class")


class Schedule:
    """Stimulus a cycle at a time, and beside it what the definition says of every output.

    `expected` holds (cycle, code) of what stands at chain_out.
    """

    def __init__(self, unit: Element, rng: np.random.Generator) -> None:
        self.unit, self.arithmetic, self.rng = unit, unit.arithmetic, rng
        self.lanes = unit.pe.interleave
        self.coverage = PECoverage(self.arithmetic, self.lanes)
        names = ["control", "a", "b", "shift", "chain_in"]
        names += [*RANDOM] * self.arithmetic.stochastic
        self.inputs: dict[str, list[int]] = {name: [] for name in names}
        self.expected: list[tuple[int, int]] = []
        self.partial, self.total = [0] * self.lanes, [0] * self.lanes
        fmt, result = self.arithmetic.operand, self.arithmetic.accumulator
        values = fmt.decode(np.arange(1 << fmt.width, dtype=fmt.code_dtype)).astype(np.float64)
        with np.errstate(invalid="ignore"):
            self.products = result.encode(np.multiply.outer(values, values)).tolist()
        self.pairs: dict[str, list[tuple[int, int]]] = {}
        for a, b in np.ndindex(len(values), len(values)):
            name = operand_class(result, self.products[a][b])
            if name == "NaN" and values[a] == values[a] and values[b] == values[b]:
                name = "infinity · 0"
            self.pairs.setdefault(name, []).append((a, b))
        self.decode = cache(lambda code: exact.decode(self.arithmetic.accumulator, code))

    @property
    def cycle(self) -> int:
        return len(self.inputs["control"])

    def run(self) -> None:
        """All of it: outputs of a few chunks each, whose totals leave while the next are being summed."""
        pending: int | None = None  # the cycle from which on totals may leave
        for _ in range(-(-OUTPUTS // self.lanes)):
            chunks = int(self.rng.choice([1, 1, 2, 3, 4]))
            self.coverage.hit("chunks", str(chunks) if chunks < 3 else "3 and more")
            tiny = self.rng.random() < 0.2
            for index in range(chunks):
                flavour = "tiny" if tiny else str(self.rng.choice(FLAVOURS))
                self._chunk(flavour, least_cycle=None if pending is None else pending + self.lanes + 4)
                begin, totals = self.cycle, list(self.total)
                self._fold(first=index == 0)
                if pending is not None:
                    self._leave(totals, pending, begin)
                pending = None
            pending = begin + 2 * self.lanes + 1
        assert pending is not None
        while self.cycle < pending + self.lanes + 4:
            self._step(None)
        self._leave(self.total, pending, self.cycle - 1)

    def _chunk(self, flavour: str, least_cycle: int | None) -> None:
        length = int(self.rng.choice([1, 2, 3, 5, self.arithmetic.chunk]))
        names = {1: "1", 2: "2", 3: "3", self.arithmetic.chunk: "chunk"}
        self.coverage.hit("chunk length", names.get(length, "between"))
        if self.rng.random() < 0.2:
            self._step(None, "before a chunk")
        for k in range(length):
            self._step("any class" if flavour == "tiny, then any class" and k > 1 else flavour)
            if self.rng.random() < 0.1:
                self._step(None, "before a fold" if k == length - 1 else "within a chunk")
        while least_cycle is not None and self.cycle < least_cycle:
            self._step(None, "before a fold")

    def _step(self, flavour: str | None, bubble: str | None = None) -> None:
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

    def _fold(self, first: bool) -> None:
        for lane in range(self.lanes):
            a, b = self.rng.integers(0, 1 << self.arithmetic.operand.width, 2).tolist()  # anything
            summands = 0 if first else self.total[lane], self.partial[lane]
            random = self._cycle(FOLD_FIRST if first else FOLD, a, b, summands)
            self.coverage.fold(self.total[lane], self.partial[lane], first, random)
            self.total[lane] = self._add(*summands, random)
            self.partial[lane] = 0
            if self.total.count(self.total[lane]) == 1:
                self.coverage.hit("lane", str(lane))

    def _leave(self, totals: list[int], earliest: int, latest: int) -> None:
        """Shift `totals` out in some of the cycles `earliest` … `latest`, and then what came from above."""
        lanes, above = self.lanes, []
        window = latest - earliest + 1
        count = int(self.rng.integers(lanes, min(window, 2 * lanes) + 1))
        if self.rng.random() < 0.5:
            cycles = list(range(earliest, earliest + count))
        else:
            cycles = sorted((earliest + self.rng.permutation(window)[:count]).tolist())
        self.coverage.hit("shift", "at once" if cycles[0] == earliest else "later")
        if len(set(totals)) == lanes:
            self.coverage.hit("shift", "no two totals alike")
        if cycles[-1] - cycles[0] >= count:
            self.coverage.hit("shift", "interrupted")
        if count > lanes:
            self.coverage.hit("shift", "passes on what comes from above")
        for index, cycle in enumerate(cycles):
            self.inputs["shift"][cycle] = 1
            bits, code = self._number()
            self.inputs["chain_in"][cycle] = bits
            above.append(code)
            self.expected.append((cycle, totals[index] if index < lanes else above[index - lanes]))

    def _cycle(self, control: int, a: int, b: int, summands: tuple[int, int]) -> int:
        """One cycle of stimulus, in which these are added; returns its random bits, which now and then just
        do, or just do not, change the sum."""
        row = {"control": control, "a": a, "b": b, "shift": 0, "chain_in": 0}
        if self.arithmetic.stochastic:
            bits = self.arithmetic.random_bits
            row["a_random"], row["b_random"] = self.rng.integers(0, 1 << bits, 2).tolist()
            row["diagonal"] = int(self.rng.integers(1, 1 << 32))
            if self.rng.random() < 0.3:
                drawn = row["a_random"] ^ row["b_random"] ^ row["diagonal"] & (1 << bits) - 1
                row["a_random"] ^= drawn ^ max(0, self._brink(*summands) - int(self.rng.integers(2)))
        for name, value in row.items():
            self.inputs[name].append(value)
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

    def _number(self) -> tuple[int, int]:
        """A normal number as the chain carries it, and its code."""
        layout, fmt, rng = self.unit.pe.sum, self.arithmetic.accumulator, self.rng
        significand = 1 << (layout.precision - 1) | int(rng.integers(0, 1 << (layout.precision - 1)))
        exponent = int(rng.integers(fmt.min_exponent, fmt.max_exponent + 1)) + layout.bias
        bits = layout.layout.const(
            {"significand": significand, "exponent": exponent, "sign": int(rng.integers(0, 2))}
        )
        value = bits.as_value().value
        return value, exact.encode(fmt, layout.decode(value))


@cocotb.test()
async def sums_and_chain(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        unit = bench.unit
        schedule = Schedule(unit, bench.rng)
        schedule.run()
        inputs = schedule.inputs
        passed_on = ["control", *RANDOM * unit.arithmetic.stochastic]
        await start(dut, inputs)
        names = ["chain_out", "a_out", "b_out", *(f"{name}_out" for name in passed_on)]
        seen = await trace(dut, names, **inputs)
        fmt = unit.arithmetic.accumulator
        for cycle, expected in schedule.expected:
            bench.equal(expected, seen[cycle][0], fmt, cycle=cycle)
        operand = cache(lambda code: repr(exact.decode(unit.arithmetic.operand, code)))
        passed = cache(lambda bits: repr(unit.pe.operand.decode(bits)))
        for cycle, (_, a, b, *rest) in enumerate(seen[1:]):
            given = {name: inputs[name][cycle] for name in inputs}
            bench.equal(
                operand(given["a"]), passed(a), cycle=cycle, a=coded(unit.arithmetic.operand, given["a"])
            )
            bench.equal(
                operand(given["b"]), passed(b), cycle=cycle, b=coded(unit.arithmetic.operand, given["b"])
            )
            if unit.arithmetic.stochastic:
                given["diagonal"] = DIAGONAL.moved(given["diagonal"], DIAGONAL.per_column)
            for name, got in zip(passed_on, rest, strict=True):
                bench.equal(given[name], got, cycle=cycle, port=f"{name}_out")
        schedule.coverage.close()
        bench.cover(schedule.coverage)
