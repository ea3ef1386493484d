"""Drivers of the mutants of integer and fused elements, and of requantisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from element import Element
from mutant_vectors import Expected, Vectors
from mutants import Driver, Mutants
from test_requantisation import cases

from quaver.golden import exact
from quaver.golden.formats import FloatFormat
from quaver.golden.requantisation import MAX_SHIFT, MULTIPLIER_BITS, OFFSET_BITS
from quaver.rtl.pe.aligned_float import AlignedFloatPE
from quaver.rtl.requantisation import RequantisationUnit


def requantisation_driver(unit: RequantisationUnit) -> Callable[[Mutants], Driver]:
    """Sums about ties and about the codes' ends with every shift."""

    def driver(of: Mutants) -> Driver:
        inputs: dict[str, list[int]] = {name: [] for name in ("number", "multiplier", "offset", "shift")}
        expected = []
        for shift in range(MAX_SHIFT + 1):
            (sums,), requantise = cases(unit.width, unit.bits, shift, 150)
            for code in requantise.definition(sums[None])[0].tolist():
                expected.append(Expected(len(inputs["number"]) + unit.latency, "code", code))
                inputs["number"].append(0)
            inputs["number"][-len(sums) :] = (sums % (1 << unit.width)).tolist()
            inputs["multiplier"] += (requantise.multipliers % (1 << MULTIPLIER_BITS)).tolist()
            inputs["offset"] += (requantise.offsets % (1 << OFFSET_BITS)).tolist()
            for name in ("number", "multiplier", "offset"):
                inputs[name] += [0] * unit.latency
            inputs["shift"] += [shift] * (len(sums) + unit.latency)
        return Vectors(of).driver(inputs, expected)

    return driver


def integer_driver(unit: Element) -> Callable[[Mutants], Driver]:
    """Tiles of every length up to the longest, with bubbles; totals, and what comes down after them."""

    def driver(of: Mutants) -> Driver:
        pe, rng = unit.pe, np.random.default_rng(1)
        fmts, limit = (pe.arithmetic.a, pe.arithmetic.b), 1 << pe.arithmetic.accumulator_bits
        ends = [fmt.codes(np.array([fmt.lowest, fmt.highest])) for fmt in fmts]
        inputs: dict[str, list[int]] = {name: [] for name in ("a", "b", "control", "shift", "chain_in")}
        expected = []

        def cycle(a: np.ndarray, b: np.ndarray, fold: int = 0) -> None:
            for name, codes, fmt in (("a", a, fmts[0]), ("b", b, fmts[1])):
                inputs[name].append(sum(int(code) << i * fmt.bits for i, code in enumerate(codes)))
            for name, value in (("control", fold), ("shift", 0), ("chain_in", int(rng.integers(limit)))):
                inputs[name].append(value)

        def bubble() -> None:  # of two operands one is 0, and the other may be anything
            cycle(np.zeros(pe.group, int), rng.integers(0, 1 << fmts[1].bits, pe.group))

        longest = 300 // pe.group
        cycle(*[np.zeros(pe.group, int)] * 2, fold=1)
        for index in range(150):
            total = 0
            for _ in range(longest if index in (20, 40) else int(rng.choice([1, 2, 3, 9]))):
                while rng.random() < 0.2:
                    bubble()
                a, b = (rng.integers(0, 1 << fmt.bits, pe.group) for fmt in fmts)
                if index % 3 == 0 or index in (20, 40):
                    a, b = rng.choice(ends[0], pe.group), rng.choice(ends[1], pe.group)
                if index in (20, 40):
                    a[:], b[:] = ends[0][1], ends[1][index // 20 % 2]
                total += int((fmts[0].integers(a) * fmts[1].integers(b)).sum())
                cycle(a, b)
            cycle(*(rng.integers(0, 1 << fmt.bits, pe.group) for fmt in fmts), fold=1)
            stands = len(inputs["a"]) - 1 + pe.latency
            while len(inputs["a"]) <= stands + 3:
                bubble()
            expected.append(Expected(stands, "code", total % limit))
            for cycle_ in range(stands + 1, stands + int(rng.integers(1, 4))):
                inputs["shift"][cycle_] = 1
                expected += [
                    Expected(cycle_, "code", expected[-1].value),
                    Expected(cycle_ + 1, "code", inputs["chain_in"][cycle_]),
                ]
        return Vectors(of).driver(inputs, expected)

    return driver


def fused_driver(unit: Element) -> Callable[[Mutants], Driver]:
    """Tiles of every class of operands, with bubbles; totals, and what comes down after them."""

    def driver(of: Mutants) -> Driver:
        pe, arithmetic, rng = unit.pe, unit.pe.arithmetic, np.random.default_rng(1)
        lanes, group = pe.interleave, pe.group
        inputs: dict[str, list[int]] = {name: [] for name in ("a", "b", "control", "shift", "chain_in")}
        expected = []

        def packed(codes: Any, fmt: FloatFormat) -> int:
            return sum(int(code) << fmt.width * i for i, code in enumerate(codes))

        def step(a: np.ndarray, b: np.ndarray, control: int = 0) -> None:
            for lane in range(lanes):
                values = packed(a, arithmetic.a), packed(b[:, lane], arithmetic.b), control, 0, 0
                for column, value in zip(inputs.values(), values, strict=True):
                    column.append(value)

        def bubble() -> None:
            step(np.zeros(group, int), np.zeros((group, lanes), int))

        bubble()
        for index in range(280):
            kind = KINDS[index % len(KINDS)]
            # The element does not know how long a chunk is; in long ones sums outgrow the products.
            chunk = arithmetic.chunk * int(rng.choice([1, 8]))
            k_count = int(rng.choice([1, group, 2 * group, chunk, 2 * chunk + 3, 3 * chunk]))
            a, b = (
                operands(arithmetic.a, kind, (1, k_count), rng),
                operands(arithmetic.b, kind, (k_count, lanes), rng),
            )
            if kind == "cancelling":
                a[0, 1::2], b[1::2] = (
                    a[0, : k_count // 2 * 2 : 2],
                    b[: k_count // 2 * 2 : 2] ^ arithmetic.b.sign_code,
                )
            if kind == "far apart":
                for k in range(0, k_count, size := int(rng.choice([group, chunk]))):
                    part = slice(k, k + size)
                    far_apart(a[0, part], b[part], (arithmetic.a, arithmetic.b), rng)
            for k in range(0, k_count, group):
                while rng.random() < 0.2:
                    bubble()
                step(a[0, k : k + group], b[k : k + group])
                if (k + group) % chunk == 0 or k + group >= k_count:
                    begun = len(inputs["a"])
                    anything = rng.integers(0, 1 << arithmetic.b.width, (group, lanes))
                    step(anything[:, 0] % (1 << arithmetic.a.width), anything, 3 if k < chunk else 1)
            while len(inputs["a"]) < begun + 2 * lanes + 3 or len(inputs["a"]) % lanes:
                bubble()
            leaves = replace(arithmetic, chunk=chunk).gemm(a, b)[0].tolist()
            for i in range(int(rng.integers(lanes, 3 * lanes))):
                if i % lanes == 0:
                    bubble()
                cycle = len(inputs["a"]) - lanes + i % lanes
                bits, code = number(pe, arithmetic.result, rng)
                inputs["shift"][cycle], inputs["chain_in"][cycle] = 1, bits
                leaves.append(code)
                expected.append(Expected(cycle, "code", leaves[i]))
            bubble()
        expected += [Expected(i + 1, "control_out", x) for i, x in enumerate(inputs["control"][:-1])]
        return Vectors(of).driver(inputs, expected)

    return driver


KINDS = "any", "finite", "low", "sparse", "normal", "cancelling", "far apart"


def far_apart(a: np.ndarray, b: np.ndarray, fmts: tuple[FloatFormat, FloatFormat], rng: Any) -> None:
    """Products that are all huge, or all least; and zeros times huge, which count for nothing."""
    huge = rng.random() < 0.5
    for codes, fmt in zip((a, b), fmts, strict=True):
        low = rng.integers(0, 4, codes.shape)
        codes[:] = (fmt.max_code - low if huge else low) | fmt.sign_code * int(rng.integers(2))
    for zeros, zero, other, fmt in ((rng.random(len(a)), a, b, fmts[1]), (rng.random(len(a)), b, a, fmts[0])):
        zero[zeros < 0.15] = 0
        other[zeros < 0.15] = fmt.max_code


def operands(fmt: FloatFormat, kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Operand codes: of any numbers, of any finite, near the bottom, mostly zero, ordinary."""
    if kind in ("normal", "cancelling"):
        return fmt.encode(rng.standard_normal(shape))
    found = rng.integers(0, 1 << fmt.width, shape)
    finite = (found & (fmt.sign_code - 1)) <= fmt.max_code
    if kind == "finite":
        found = np.where(finite, found, 0)
    if kind == "low":
        found &= fmt.sign_code | (4 << fmt.mantissa_bits) - 1
    if kind == "sparse":
        found = np.where((rng.random(shape) < 0.2) & finite, found, fmt.sign_code)
    return found.astype(fmt.code_dtype)


def number(pe: AlignedFloatPE, fmt: FloatFormat, rng: np.random.Generator) -> tuple[int, int]:
    """A number as the chain carries it, and its code."""
    layout, top = pe.total, 1 << (pe.total.precision - 1)
    fields = {
        "significand": top | int(rng.integers(top)),
        "exponent": int(rng.integers(layout.min_exponent, layout.max_exponent + 1)) + layout.bias,
        "sign": int(rng.integers(2)),
    }
    kind = rng.random()
    if kind < 0.1:
        fields = {"infinite": 1, "sign": fields["sign"]}
    elif kind < 0.15:
        fields = {"nan": 1}
    bits = layout.layout.const(fields).as_value().value
    return bits, exact.encode(fmt, layout.decode(bits))
