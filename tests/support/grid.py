"""Pairs of small formats through the adder, through multiplier and adder, and through a processing element.

The first two meet every operand there is, the element some sums that are hard in their own ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from element import Element
from netlists import Netlist, codes, counting, netlists, planes
from small_formats import Accumulation, Codes, Sums, decoded, distinct, products

from quaver.golden.arithmetic import ChunkedFloat
from quaver.golden.formats import FloatFormat
from quaver.golden.rounding import Rounding
from quaver.rtl.float.adder import FloatAdder
from quaver.rtl.float.multiplier import FloatMultiplier
from quaver.rtl.pe.chunked_float import ChunkedFloatPE


class MultiplyAdd(wiring.Component):
    """round(a + x·y): x and y codes of `operand`, a and the sum codes of `fmt`."""

    def __init__(self, fmt: FloatFormat, operand: FloatFormat, rounding: Rounding, random_bits: int) -> None:
        self.multiplier = FloatMultiplier(operand, operand)
        self.adder = FloatAdder(fmt, self.multiplier.unpacked, rounding=rounding, random_bits=random_bits)
        ports = {"x": In(operand.width), "y": In(operand.width), "a": In(fmt.width), "sum": Out(fmt.width)}
        if rounding.draws:
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


def element_sums(
    arithmetic: ChunkedFloat, netlist: Netlist, left: Codes, right: Codes, random: Codes | None
) -> Codes:
    """What an `Element` makes of left·right over the first axis, K, for each lane, with draws (n, lane)."""
    lanes = left.shape[1]
    draws = iter(random) if random is not None else None
    a, b = arithmetic.identity
    idle = np.full(lanes, a), np.full(lanes, b)
    state = None

    def cycle(
        factors: tuple[Codes, Codes], fold: bool = False, first: bool = False, draw: bool = True
    ) -> Codes:
        nonlocal state
        width = arithmetic.operand.width
        inputs = {"a": planes(factors[0], width), "b": planes(factors[1], width)}
        inputs["control"] = planes(np.full(lanes, fold + 2 * first), 2)
        if draws is not None and draw:
            inputs["a_random"] = planes(next(draws), arithmetic.random_bits)
        outputs, state = netlist.step(inputs, state)
        return codes(outputs["code"], lanes)

    for k in range(len(left)):
        cycle((left[k], right[k]))
        if (k + 1) % arithmetic.chunk == 0 or k + 1 == len(left):
            cycle(idle, fold=True, first=k < arithmetic.chunk)
    for _ in range(2):  # the total is there three cycles after its fold
        cycle(idle, draw=False)
    return cycle(idle, draw=False)


class Unit(StrEnum):
    """What a pair of formats goes through."""

    ADDER = "adder"
    MULTIPLY_ADD = "multiplier and adder"
    ELEMENT = "element"


@dataclass(frozen=True)
class Case:
    """One pair of formats and one rounding, through a unit."""

    unit: Unit
    format: FloatFormat
    """Of the sum and the augend, which is the accumulator."""
    other: FloatFormat
    """Of the addend, or of the factors."""
    rounding: Rounding
    random_bits: int = 3

    def __str__(self) -> str:
        random = f" {self.random_bits}" if self.rounding.draws else ""
        return f"{self.unit}: {self.other} into {self.format}, {self.rounding}{random}"

    @property
    def component(self) -> wiring.Component:
        """The unit."""
        rounding, bits = self.rounding, self.random_bits
        if self.unit is Unit.ADDER:
            return FloatAdder(self.format, self.other, rounding=rounding, random_bits=bits)
        if self.unit is Unit.MULTIPLY_ADD:
            return MultiplyAdd(self.format, self.other, rounding, bits)
        return Element(ChunkedFloatPE(self.arithmetic, stages=1))

    @property
    def arithmetic(self) -> ChunkedFloat:
        """What the element computes."""
        return ChunkedFloat(self.other, self.format, 3, self.rounding, self.random_bits)


@dataclass(frozen=True)
class Outcome:
    """How a case went."""

    case: Case
    compared: int
    wrong: int
    first: str
    """The first mismatch, or nothing."""


def every_operand(case: Case, netlist: Netlist, sums: Sums) -> Outcome:
    """Adder, or multiplier and adder, against `sums` on every input."""
    multiply = case.unit is Unit.MULTIPLY_ADD
    addends, index = distinct(products(case.other, case.other) if multiply else decoded(case.other))
    table = sums.table(addends).astype(np.uint8 if case.format.width <= 8 else np.uint32)
    ports = {"x": case.other.width, "y": case.other.width} if multiply else {"b": case.other.width}
    ports |= {"a": case.format.width} | ({"random": case.random_bits} if sums.draws > 1 else {})
    inputs = dict(zip(ports, counting(*ports.values()), strict=True))
    got = netlist.step(inputs)[0]["sum"]
    wrong = np.zeros(got.shape[1], np.uint64)
    for bit, plane in enumerate(got):
        expected = (table >> bit & 1).astype(bool)[index].ravel()
        wrong |= plane ^ np.packbits(expected, bitorder="little").view(np.uint64)
    compared, first = len(index) * table[0].size, ""
    if count := int(np.bitwise_count(wrong).sum()):
        lane = int(np.flatnonzero(codes(wrong[None], compared))[0])
        given = ", ".join(f"{name} {codes(plane, compared)[lane]:#x}" for name, plane in inputs.items())
        result = codes(got, compared)[lane]
        first = f"{case}: {given} is {result:#x} instead of {table[index].ravel()[lane]:#x}"
    return Outcome(case, compared, count, first)


def some_sums(case: Case, netlist: Netlist, sums: Sums, lanes: int = 4096) -> Outcome:
    """The element on sums of eight products, in chunks of three: any codes, finite ones, the smallest;
    and chunks that begin with the largest, to go on from infinity."""
    arithmetic, fmt, rng = case.arithmetic, case.other, np.random.default_rng(1)
    magnitudes = np.arange(1 << fmt.width) & (fmt.sign_code - 1)
    kinds = [magnitudes >= 0, magnitudes <= fmt.max_code, magnitudes <= 2 << fmt.mantissa_bits]
    chosen = [rng.choice(np.flatnonzero(kind), (2, 8, lanes)) for kind in kinds]
    largest = chosen[1].copy()
    largest[:, ::3] = fmt.max_code - rng.integers(0, 2, largest[:, ::3].shape) * fmt.sign_code + fmt.sign_code
    left, right = np.concatenate([*chosen, largest % (2 * fmt.sign_code)], axis=2)
    random = rng.integers(0, sums.draws, (arithmetic.roundings(8), left.shape[1]))
    random = random if arithmetic.stochastic else None
    expected = Accumulation(arithmetic, sums).results(left, right, random)
    got = element_sums(arithmetic, netlist, left, right, random)
    wrong, first = np.flatnonzero(got != expected), ""
    if len(wrong):
        at = wrong[0]
        given = f"{left[:, at]} · {right[:, at]}" + (
            f", random {random[:, at]}" if random is not None else ""
        )
        first = f"{case}: {given} is {got[at]:#x} instead of {expected[at]:#x}"
    return Outcome(case, len(got), len(wrong), first)


def outcomes(cases: Iterable[Case], at_once: int = 32) -> Iterator[Outcome]:
    """How each case goes, in order. Cases of one format and rounding are quicker together."""
    key, sums, remaining = None, None, iter(cases)
    while batch := list(islice(remaining, at_once)):
        for case, netlist in zip(batch, netlists([case.component for case in batch]), strict=True):
            if sums is None or key != (case.format, case.rounding, case.random_bits):
                key = case.format, case.rounding, case.random_bits
                sums = Sums(*key)
            check = some_sums if case.unit is Unit.ELEMENT else every_operand
            yield check(case, netlist, sums)
