"""What benches of processing elements share: the element between entries and exit, and stimulus in time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from quaver.golden import exact
from quaver.golden.contracts import Arithmetic
from quaver.golden.formats import FloatFormat
from quaver.golden.random_bits import DIAGONAL
from quaver.rtl.float.unpacked import Unpacked
from quaver.rtl.pe import pe_for
from quaver.sim.benches.bench import Bench, start, trace
from quaver.sim.coverage import Coverage, operand_class

#: The element's ports for random bits.
RANDOM = ("a_random", "b_random", "diagonal")
FOLD, FOLD_FIRST = 1, 3


class Element(wiring.Component):
    """A processing element between its entries and its exit, so that the bench speaks codes."""

    def __init__(self, arithmetic: Arithmetic, stages: int) -> None:
        self.arithmetic = arithmetic
        self.pe: Any = pe_for(arithmetic, stages=stages)
        ports: dict[str, Any] = {
            "control": In(2),
            "a": In(arithmetic.a.width * self.pe.group),
            "b": In(arithmetic.b.width * self.pe.group),
            "shift": In(1),
            "chain_in": In(len(self.pe.chain_in.as_value())),
            "chain_out": Out(arithmetic.result.width),
            "control_out": Out(2),
            "a_out": Out(len(self.pe.a.as_value())),
            "b_out": Out(len(self.pe.b.as_value())),
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


class Schedule:
    """Stimulus a cycle at a time, and beside it what the definition says of every output.

    `expected` holds (cycle, code) of what stands at chain_out. A subclass says what a step's operands are,
    and what they and a fold make of `partial` and `total`.

    Parameters
    ----------
    unit, rng, coverage
        The element; the source of all stimulus; where cases are counted.
    flavours
        How a chunk's operands may be chosen.
    outputs
        How many, of all lanes together.
    """

    def __init__(
        self,
        unit: Element,
        rng: np.random.Generator,
        coverage: Coverage,
        flavours: tuple[str, ...],
        outputs: int,
    ) -> None:
        self.unit, self.rng, self.coverage, self.flavours = unit, rng, coverage, flavours
        self.lanes, self.outputs = unit.pe.interleave, outputs
        self.chunk: int = unit.arithmetic.chunk // unit.pe.group
        names = ["control", "a", "b", "shift", "chain_in"]
        names += [*RANDOM] * unit.arithmetic.stochastic
        self.inputs: dict[str, list[int]] = {name: [] for name in names}
        self.expected: list[tuple[int, int]] = []
        self.partial, self.total = [0] * self.lanes, [0] * self.lanes

    def step(self, flavour: str | None, bubble: str | None = None) -> None:
        """A group of products a lane; without a flavour, bubbles."""
        raise NotImplementedError

    def fold(self, first: bool) -> None:
        """A fold a lane."""
        raise NotImplementedError

    @property
    def cycle(self) -> int:
        return len(self.inputs["control"])

    def run(self) -> None:
        """All of it: outputs of a few chunks each, whose totals leave while the next are being summed."""
        pending: int | None = None  # the cycle from which on totals may leave
        for _ in range(-(-self.outputs // self.lanes)):
            chunks = int(self.rng.choice([1, 1, 2, 3, 4]))
            self.coverage.hit("chunks", str(chunks) if chunks < 3 else "3 and more")
            tiny = self.rng.random() < 0.2
            for index in range(chunks):
                flavour = "tiny" if tiny else str(self.rng.choice(self.flavours))
                self._chunk(flavour, least_cycle=None if pending is None else pending + self.lanes + 4)
                begin, totals = self.cycle, list(self.total)
                self.fold(first=index == 0)
                if pending is not None:
                    self._leave(totals, pending, begin)
                pending = None
            pending = begin + self.lanes - 1 + self.unit.pe.latency
        assert pending is not None
        while self.cycle < pending + self.lanes + 4:
            self.step(None)
        self._leave(self.total, pending, self.cycle - 1)

    def _chunk(self, flavour: str, least_cycle: int | None) -> None:
        length = int(self.rng.choice([1, 2, 3, 5, self.chunk]))
        names = {1: "1", 2: "2", 3: "3", self.chunk: "chunk"}
        self.coverage.hit("chunk length", names.get(length, "between"))
        if self.rng.random() < 0.2:
            self.step(None, "before a chunk")
        for k in range(length):
            self.step("any class" if flavour == "tiny, then any class" and k > 1 else flavour)
            if self.rng.random() < 0.1:
                self.step(None, "before a fold" if k == length - 1 else "within a chunk")
        while least_cycle is not None and self.cycle < least_cycle:
            self.step(None, "before a fold")

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

    def give(self, control: int, a: int, b: int, **random: int) -> None:
        """One cycle of stimulus."""
        for name, value in {"control": control, "a": a, "b": b, "shift": 0, "chain_in": 0, **random}.items():
            self.inputs[name].append(value)

    def _number(self) -> tuple[int, int]:
        """A normal number as the chain carries it, and its code."""
        layout: Unpacked = self.unit.pe.total
        fmt, rng = self.unit.arithmetic.result, self.rng
        assert isinstance(fmt, FloatFormat)
        significand = 1 << (layout.precision - 1) | int(rng.integers(0, 1 << (layout.precision - 1)))
        least = max(fmt.min_exponent, layout.min_exponent)
        exponent = int(rng.integers(least, fmt.max_exponent + 1)) + layout.bias
        bits = layout.layout.const(
            {"significand": significand, "exponent": exponent, "sign": int(rng.integers(0, 2))}
        )
        value = bits.as_value().value
        return value, exact.encode(fmt, layout.decode(value))


def pairs_by_class(
    a: FloatFormat, b: FloatFormat, of: Callable[[int, int], int], fmt: FloatFormat
) -> dict[str, list[tuple[int, int]]]:
    """The pairs of codes by the class of their product, which is the code `of` them in `fmt`."""
    found: dict[str, list[tuple[int, int]]] = {}
    for x, y in np.ndindex(1 << a.width, 1 << b.width):
        name = operand_class(fmt, of(x, y))
        if name == "NaN" and "NaN" not in (operand_class(a, x), operand_class(b, y)):
            name = "infinity · 0"
        found.setdefault(name, []).append((x, y))
    return found


async def check(dut: Any, bench: Bench, schedule: Schedule) -> None:
    """Runs a schedule: what stands at the foot of the chain, and what is passed on to the neighbours."""
    schedule.run()
    unit, inputs = schedule.unit, schedule.inputs
    arithmetic: Any = unit.arithmetic
    passed_on = ["control", *RANDOM * arithmetic.stochastic]
    await start(dut, inputs)
    names = ["chain_out", "a_out", "b_out", *(f"{name}_out" for name in passed_on)]
    seen = await trace(dut, names, **inputs)
    for cycle, expected in schedule.expected:
        bench.equal(expected, seen[cycle][0], arithmetic.result, cycle=cycle)
    layouts = Unpacked.normalised if unit.pe.group == 1 and hasattr(unit.pe, "operand") else Unpacked.of
    sides = []
    for fmt in (arithmetic.a, arithmetic.b):
        layout = layouts(fmt)
        decode = cache(lambda code, fmt=fmt: repr(exact.decode(fmt, code)))
        carried = cache(lambda bits, layout=layout: repr(layout.decode(bits)))
        sides.append((fmt.width, decode, layout.layout.size, carried))
    for cycle, (_, a, b, *rest) in enumerate(seen[1:]):
        given = {name: inputs[name][cycle] for name in inputs}
        for name, got, (width, decode, size, carried) in zip("ab", (a, b), sides, strict=True):
            for i in range(unit.pe.group):
                code = given[name] >> width * i & (1 << width) - 1
                bits = got >> size * i & (1 << size) - 1
                bench.equal(decode(code), carried(bits), cycle=cycle, port=f"{name}_out", place=i, code=code)
        if arithmetic.stochastic:
            given["diagonal"] = DIAGONAL.moved(given["diagonal"], DIAGONAL.per_column)
        for name, got in zip(passed_on, rest, strict=True):
            bench.equal(given[name], got, cycle=cycle, port=f"{name}_out")
