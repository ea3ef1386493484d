"""Every pair of small formats through the adder, and through multiplier and adder, on every operand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from netlists import Netlist, codes, counting, netlists
from small_formats import Sums, decoded, distinct, products

from quaver.golden.exact import Exact
from quaver.golden.formats import FloatFormat
from quaver.golden.rounding import Rounding
from quaver.rtl.float.adder import FloatAdder
from quaver.rtl.float.multiplier import FloatMultiplier


class MultiplyAdd(wiring.Component):
    """round(a + x·y): x and y codes of `operand`, a and the sum codes of `fmt`."""

    def __init__(self, fmt: FloatFormat, operand: FloatFormat, rounding: Rounding, random_bits: int) -> None:
        self.multiplier = FloatMultiplier(operand, operand)
        self.adder = FloatAdder(fmt, self.multiplier.unpacked, rounding=rounding, random_bits=random_bits)
        ports = {"x": In(operand.width), "y": In(operand.width), "a": In(fmt.width), "sum": Out(fmt.width)}
        if rounding is Rounding.STOCHASTIC:
            ports["random"] = In(random_bits)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.multiplier, m.submodules.adder = self.multiplier, self.adder
        m.d.comb += [
            self.multiplier.a.eq(self.x),
            self.multiplier.b.eq(self.y),
            self.adder.a.eq(self.a),
            self.adder.b.eq(self.multiplier.product),
            self.sum.eq(self.adder.sum),
        ]
        if "random" in self.signature.members:
            m.d.comb += self.adder.random.eq(self.random)
        return m


@dataclass(frozen=True)
class Case:
    """One pair of formats and one rounding, through a unit."""

    format: FloatFormat
    """Of a and of the sum."""
    other: FloatFormat
    """Of the addend, or of the factors."""
    rounding: Rounding
    random_bits: int = 3
    multiply: bool = False

    def __str__(self) -> str:
        other = f"{self.other}·{self.other}" if self.multiply else f"{self.other}"
        random = f" {self.random_bits}" if self.rounding is Rounding.STOCHASTIC else ""
        return f"{self.format} + {other} {self.rounding}{random}"

    @property
    def unit(self) -> wiring.Component:
        """What is to be tried: ports a, b or x and y, random, sum."""
        if self.multiply:
            return MultiplyAdd(self.format, self.other, self.rounding, self.random_bits)
        return FloatAdder(self.format, self.other, rounding=self.rounding, random_bits=self.random_bits)

    @property
    def addends(self) -> list[Exact]:
        """What every code of b, or of x and y, means."""
        return products(self.other, self.other) if self.multiply else decoded(self.other)


@dataclass(frozen=True)
class Outcome:
    """How a case went."""

    case: Case
    compared: int
    wrong: int
    first: str
    """The first mismatch, or nothing."""


def outcome(case: Case, netlist: Netlist, sums: Sums) -> Outcome:
    """`netlist` against `sums` on every input."""
    addends, index = distinct(case.addends)
    small = np.uint8 if case.format.width <= 8 else np.uint32
    table = sums.table(addends).astype(small)
    ports = {"x": case.other.width, "y": case.other.width} if case.multiply else {"b": case.other.width}
    ports |= {"a": case.format.width} | ({"random": case.random_bits} if sums.draws > 1 else {})
    inputs = dict(zip(ports, counting(*ports.values()), strict=True))
    got = netlist.step(inputs)[0]["sum"]
    wrong = np.zeros(got.shape[1], np.uint64)
    for bit, plane in enumerate(got):
        expected = np.packbits((table >> bit & 1).astype(bool)[index].ravel(), bitorder="little").view(
            np.uint64
        )
        wrong |= plane ^ expected
    compared = len(index) * table[0].size
    first = ""
    if count := int(np.bitwise_count(wrong).sum()):
        lane = int(np.flatnonzero(codes(wrong[None], compared))[0])
        at = {name: int(codes(plane, compared)[lane]) for name, plane in inputs.items()}
        expected_code = table[index].ravel()[lane]
        given = " ".join(f"{name}={value:#x}" for name, value in at.items())
        first = f"{case}: {given} expected {expected_code:#x} got {codes(got, compared)[lane]:#x}"
    return Outcome(case, compared, count, first)


def outcomes(cases: Iterable[Case], at_once: int = 32) -> Iterator[Outcome]:
    """How each case goes. Those of one format and rounding share the definition's table, in any order."""
    tables: dict[tuple[FloatFormat, Rounding, int], Sums] = {}
    remaining = iter(cases)
    while batch := list(islice(remaining, at_once)):
        for case, netlist in zip(batch, netlists([case.unit for case in batch]), strict=True):
            key = case.format, case.rounding, case.random_bits
            if key not in tables:
                tables[key] = Sums(*key)
            yield outcome(case, netlist, tables[key])
