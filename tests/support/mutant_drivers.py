"""What drives each unit's mutants: stimulus of its bench, and the golden model's outputs, in process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from element import Element
from mutant_compression import average_driver, compressor_driver, mean_driver
from mutant_elements import fused_driver, integer_driver, requantisation_driver
from mutant_streams import (
    axi_driver,
    axi_verilog,
    command_driver,
    hollow,
    link_driver,
    linked_verilog,
    update_driver,
)
from mutant_vectors import Expected, Vectors
from mutants import Driver, Meanings, Mutants, mutants
from test_pe_integer import of as integers

from quaver.golden import exact
from quaver.golden.arithmetic import AlignedFloat
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.formats import FP8, FixedFormat
from quaver.golden.lfsr import LFSR
from quaver.golden.rounding import Rounding as RoundingMode
from quaver.golden.rounding import round_integer, round_magnitude
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.rtl.compression.adacomp_average import AdaCompAverage
from quaver.rtl.compression.mean_of_maxima import MeanOfMaxima
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.float.adder import FloatAdder
from quaver.rtl.float.multiplier import FloatMultiplier
from quaver.rtl.float.unpacked import Unpacked
from quaver.rtl.link.uart import UART
from quaver.rtl.pe.aligned_float import AlignedFloatPE
from quaver.rtl.pe.chunked_float import ChunkedFloatPE
from quaver.rtl.pe.fixed_point import FixedPointPE
from quaver.rtl.pe.integer import IntegerPE
from quaver.rtl.requantisation import RequantisationUnit
from quaver.sim.benches import (
    fixed_sgd,
    float_adder,
    float_multiplier,
    float_sgd,
    lfsr,
    pe,
    rounding,
    systolic,
)


@dataclass(frozen=True)
class Subject:
    """A unit to be mutated.

    Attributes
    ----------
    verilog
        Makes its text.
    top
        Its module's name.
    driver
        Makes what runs its mutants.
    kept
        Modules that are no part of it, and stay as they are.
    valids
        Outputs, each with that which says when it means anything.
    latency, meanings
        As of `Mutants`.
    """

    verilog: Callable[[], str]
    top: str
    driver: Callable[[Mutants], Driver]
    kept: tuple[str, ...] = ()
    valids: Mapping[str, str] = field(default_factory=dict)
    latency: int = 0
    meanings: Meanings = field(default_factory=dict)

    def mutants(self, count: int, seed: int) -> Mutants:
        how = self.kept, self.valids, self.latency, self.meanings
        return mutants(self.verilog(), self.top, count, seed, *how)


def rounding_driver(unit: Any) -> Callable[[Mutants], Driver]:
    def driver(of: Mutants) -> Driver:
        magnitudes, random = rounding.cases(unit, 1)
        inputs = {"magnitude": magnitudes}
        if unit.rounding is RoundingMode.STOCHASTIC:
            inputs["random"] = random
        expected = [
            Expected(i, "rounded", round_magnitude(x, unit.dropped_bits, unit.rounding, r, unit.random_bits))
            for i, (x, r) in enumerate(zip(magnitudes, random, strict=True))
        ]
        return Vectors(of).driver(inputs, expected)

    return driver


class Product(wiring.Component):
    """A multiplier whose product has but one code for a number: fields that mean nothing are 0."""

    def __init__(self, multiplier: FloatMultiplier) -> None:
        self.multiplier = multiplier
        a, b, layout = multiplier.a_format.width, multiplier.b_format.width, multiplier.unpacked.layout
        super().__init__({"a": In(a), "b": In(b), "product": Out(layout)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = self.multiplier
        m.d.comb += [unit.a.eq(self.a), unit.b.eq(self.b)]
        number = unit.product
        with m.If(number.nan):
            m.d.comb += self.product.nan.eq(1)
        with m.Elif(number.infinite):
            m.d.comb += [self.product.infinite.eq(1), self.product.sign.eq(number.sign)]
        with m.Elif(number.significand == 0):
            m.d.comb += self.product.sign.eq(number.sign)
        with m.Else():
            m.d.comb += self.product.eq(number)
        return m


def _multiplier(unit: FloatMultiplier) -> Callable[[Mutants], Driver]:
    def driver(of: Mutants) -> Driver:
        a, b = (x.ravel() for x in np.indices((1 << unit.a_format.width, 1 << unit.b_format.width)))
        values = [
            [exact.decode(fmt, code) for code in range(1 << fmt.width)]
            for fmt in (unit.a_format, unit.b_format)
        ]
        vectors = Vectors(of)
        padded = {"a": [*a.tolist(), *[0] * unit.stages], "b": [*b.tolist(), *[0] * unit.stages]}
        stimulus = vectors.stimulus(padded | ({"rst": [0] * len(padded["a"])} if unit.stages else {}))
        nothing = np.zeros((len(stimulus), vectors.words["output"]), np.uint32)
        seen = vectors.output(vectors.run(0, stimulus, nothing, nothing)[1], "product")[unit.stages :]
        decode = cache(unit.unpacked.decode)
        expected = []
        for i, (x, y, bits) in enumerate(zip(a.tolist(), b.tolist(), seen, strict=True)):
            if not float_multiplier.same(exact.multiply(values[0][x], values[1][y]), decode(bits)):
                raise ValueError(f"another product of {x:#x} and {y:#x}")
            expected.append(Expected(i + unit.stages, "product", bits))
        return vectors.driver(padded, expected)

    return driver


def _adder(unit: Any) -> Callable[[Mutants], Driver]:
    def driver(of: Mutants) -> Driver:
        fmt, rng = unit.format, np.random.default_rng(1)
        stochastic = unit.rounding is RoundingMode.STOCHASTIC
        a, b = float_adder.pairs(fmt, rng, random_bits=unit.random_bits * stochastic)
        inputs = {"a": a.tolist(), "b": b.tolist()}
        random = [0] * len(a)
        if stochastic:
            random = inputs["random"] = float_adder.randoms(unit.random_bits, rng, len(a)).tolist()
        decode = cache(lambda code: exact.decode(fmt, code))
        expected = []
        for i, (x, y, r) in enumerate(zip(a.tolist(), b.tolist(), random, strict=True)):
            total = exact.add(decode(x), decode(y))
            code = exact.encode(fmt, total, unit.rounding, r, unit.random_bits)
            expected.append(Expected(i + unit.stages, "sum", code))
        padded = {name: [*column, *[0] * unit.stages] for name, column in inputs.items()}
        return Vectors(of).driver(padded, expected)

    return driver


def _lfsr(unit: Any) -> Callable[[Mutants], Driver]:
    def driver(of: Mutants) -> Driver:
        rng, golden = np.random.default_rng(1), LFSR(unit.initial_seed, unit.taps)
        inputs: dict[str, list[int]] = {name: [] for name in ("enable", "load", "seed")}
        expected = []
        for cycle in range(lfsr.CYCLES):
            row = int(rng.random() < 0.8), int(rng.random() < 0.02), int(rng.integers(1, 1 << 32))
            for column, value in zip(inputs.values(), row, strict=True):
                column.append(value)
            before = golden.state
            expected.append(Expected(cycle, "draw", golden.draw(unit.bits)))
            enable, load, seed = row
            if load or not enable:
                golden = LFSR(seed if load else before, unit.taps)
        return Vectors(of).driver(inputs, expected)

    return driver


def _pe(unit: Any) -> Callable[[Mutants], Driver]:
    def driver(of: Mutants) -> Driver:
        schedule = pe.Schedule(unit, np.random.default_rng(1))
        with patch.object(pe, "OUTPUTS", 3000 if unit.arithmetic.stochastic else pe.OUTPUTS):
            schedule.run()
        inputs, operand = schedule.inputs, unit.pe.operand
        expected = [Expected(cycle, "chain_out", code) for cycle, code in schedule.expected]
        vectors = Vectors(of)
        fmt = unit.arithmetic.operand
        values = [exact.decode(fmt, code) for code in range(1 << fmt.width)]
        # Of the operands that are passed on, the bits that matter to the number.
        for name in ("a", "b"):
            for cycle, code in enumerate(inputs[name][:-1]):
                bits, mask = _number(operand, repr(values[code]))
                expected.append(Expected(cycle + 1, f"{name}_out", bits, mask))
        for name in ("control", *(pe.RANDOM if unit.arithmetic.stochastic else ())):
            for cycle, value in enumerate(inputs[name][:-1]):
                moved = value
                if name == "diagonal":
                    moved = pe.DIAGONAL.moved(value, pe.DIAGONAL.per_column)
                expected.append(Expected(cycle + 1, f"{name}_out", moved))
        return vectors.driver(inputs, expected)

    @cache
    def _number(operand: Any, shown: str) -> tuple[int, int]:
        for bits in range(1 << operand.layout.size):
            if repr(operand.decode(bits)) == shown and canonical(operand, bits):
                flips = ((bit, operand.decode(bits ^ 1 << bit)) for bit in range(operand.layout.size))
                return bits, sum(1 << bit for bit, other in flips if repr(other) != shown)
        raise ValueError(f"no code of the unpacked number is {shown}")

    def canonical(operand: Any, bits: int) -> bool:
        fields = operand.layout.from_bits(bits)
        leading = fields.significand >> (operand.precision - 1)
        return bool(fields.nan or fields.infinite or not fields.significand or leading or not operand.gradual)

    return driver


def _fixed_pe(unit: Element) -> Callable[[Mutants], Driver]:
    """Tiles of every size; their sums, and what comes down the chain after them, at the chain's end and the
    foot."""

    def driver(of: Mutants) -> Driver:
        ar, rng, latency = unit.pe.arithmetic, np.random.default_rng(1), unit.pe.latency
        top, limit = ar.a.max_code, 1 << (ar.accumulator_bits - 1)
        inputs: dict[str, list[int]] = {
            name: [] for name in ("a", "b", "control", "shift", "chain_in", "random")
        }
        expected: list[Expected] = []
        total: dict[int, int] = {}

        def cycle(a: int, b: int, fold: int = 0, shift: int = 0, above: int = 0) -> int:
            row = {
                "a": a % (1 << ar.a.width),
                "b": b % (1 << ar.b.width),
                "control": fold * 3,
                "shift": shift,
            }
            row |= {"chain_in": above % (2 * limit), "random": int(rng.integers(1 << ar.random_bits))}
            for name, value in row.items():
                inputs[name].append(value)
            return len(inputs["a"]) - 1

        ends = [~top, ~top + 1, -1, 0, 1, top - 1, top]
        for index in range(150):
            count = int(rng.choice([1, 2, 3, 17, 40]))
            pairs = rng.integers(~top, top + 1, (count, 2)) >> int(rng.integers(0, 8))
            if index % 3 == 0:
                pairs = np.where(rng.random(pairs.shape) < 0.5, pairs, rng.choice(ends, pairs.shape))
            if index % 10 == 1:
                pairs[:] = [[~top, ~top], [~top, top]][index // 10 % 2]
            for a, b in pairs.tolist():
                while rng.random() < 0.2:
                    cycle(0, int(rng.integers(~top, top + 1)))
                cycle(a, b)
            fold = cycle(*rng.choice(ends, 2).tolist(), fold=1)
            total[fold + latency] = sum(a * b for a, b in pairs.tolist())
            while len(inputs["a"]) < fold + latency:
                cycle(0, 0)
            for _ in range(int(rng.integers(0, 3))):  # it stays until it is shifted
                here = cycle(0, 0, above=int(rng.integers(-limit, limit)))
                total[here + 1] = total[here]
            for _ in range(int(rng.integers(1, 4))):
                above = int(rng.integers(-limit, limit)) >> int(rng.integers(0, ar.accumulator_bits))
                if rng.random() < 0.3:  # about the ends of the result
                    end = int(rng.choice([~ar.result.max_code, ar.result.max_code, ~0, 0]))
                    above = (end << ar.dropped_bits) + int(rng.integers(-4, 5) << int(rng.integers(0, 8)))
                here = cycle(0, 0, shift=1, above=above)
                total[here + 1] = above
            cycle(0, 0)
        shifts = inputs["shift"]
        for at, z in total.items():
            expected.append(Expected(at, "chain_out", z % (2 * limit)))
            if at + 1 < len(shifts):
                rounded = round_integer(z, ar.dropped_bits, ar.rounding, inputs["random"][at], ar.random_bits)
                highest = ar.result.max_code
                code = min(max(rounded, ~highest), highest) % (1 << ar.result.width)
                expected.append(Expected(at + 1, "code", code))
        for name in ("a", "b", "control"):
            expected += [Expected(i + 1, f"{name}_out", x) for i, x in enumerate(inputs[name][:-1])]
        return Vectors(of).driver(inputs, expected)

    return driver


def _systolic(array: Any) -> Callable[[Mutants], Driver]:
    def driver(of: Mutants) -> Driver:
        schedule, tiles = systolic.Schedule(array, rng := np.random.default_rng(1)), []
        ar, lanes = array.arithmetic, array.interleave
        for index, k in enumerate(systolic.LENGTHS * 300):
            i0, j0 = rng.integers(0, 7, 2).tolist()
            shapes = (i0 + array.rows, k), (k, j0 + array.columns * lanes)
            # The lowest random bits seldom decide anything, and in numbers that are far apart alone.
            a, b = systolic.operands(ar, index if index < 99 else 1, shapes, rng)
            seed = int(rng.integers(1, 1 << 32))
            schedule.tile(a[i0:], b[:, j0:], (i0, j0), seed, bubbles=0.2 * (index % 2))
            tiles.append(ar.gemm(a, b, seed=seed if ar.stochastic else None)[i0:, j0:])
        for _ in range(2 * array.drain // array.step + array.columns + 2):
            schedule.bubble()
        inputs, vectors = schedule.inputs(), Vectors(of)
        reset = {name: [0, 0, *column] for name, column in inputs.items()}
        reset["rst"] = [1, 1, *[0] * len(inputs["a"])]
        stimulus = vectors.stimulus(reset)
        nothing = np.zeros((len(stimulus), vectors.words["output"]), np.uint32)
        valid = vectors.output(vectors.run(0, stimulus, nothing, nothing)[1], "valid")[2:]
        expected = [Expected(cycle, "valid", bit) for cycle, bit in enumerate(valid)]
        moments = (cycle for cycle, bit in enumerate(valid) if bit)
        width = ar.result.width
        for c in tiles:
            for i, lane in np.ndindex(array.rows, lanes):
                cycle = next(moments)
                for column in range(array.columns):
                    code = int(c[array.rows - 1 - i, lane * array.columns + column])
                    mask = ((1 << width) - 1) << column * width
                    expected.append(Expected(cycle + column, "results", code << column * width, mask))
        return vectors.driver(inputs, expected)

    return driver


def uart_driver(unit: UART) -> Callable[[Mutants], Driver]:
    """Bytes at random times both ways; on the way in also glitches, breaks and bytes without a stop bit."""

    def driver(of: Mutants) -> Driver:
        rng, bit = np.random.default_rng(1), unit.divisor
        rx = [1] * 3
        for _ in range(150):
            byte, kind = int(rng.integers(256)), rng.random()
            if kind < 0.1:
                rx += [0] * int(rng.integers(1, bit)) + [1] * int(rng.integers(1, 2 * bit))
            elif kind < 0.2:
                rx += [0] * int(rng.integers(9 * bit, 25 * bit)) + [1] * int(rng.integers(1, bit))
            else:
                levels = (0, *(byte >> i & 1 for i in range(8)), int(rng.random() < 0.9))
                for level in levels:
                    rx += [level] * bit
                rx += [1] * int(rng.choice([0, 0, 1, 2, 3 * bit]))
        cycles = len(rx)
        inputs: dict[str, list[int]] = {"rx": rx, "sent_payload": [], "sent_valid": []}
        expected = []
        ready, levels_out = 0, [1]  # from which cycle on; of the line, up to the cycle after this
        for cycle in range(cycles):
            byte, valid = int(rng.integers(256)), int(rng.random() < (0.05, 1)[cycle // 700 % 2])
            inputs["sent_payload"].append(byte)
            inputs["sent_valid"].append(valid)
            free = cycle >= ready
            expected += [Expected(cycle, "sent_ready", int(free)), Expected(cycle, "tx", levels_out[0])]
            levels_out = levels_out[1:] or [1]
            if free and valid:
                levels_out = [
                    level for level in (0, *(byte >> i & 1 for i in range(8)), 1) for _ in range(bit)
                ]
                ready = cycle + 10 * bit
        received = _received([0, 0, *rx], bit)  # in reset it was low
        for cycle in range(cycles):
            expected.append(Expected(cycle, "received_valid", int(cycle in received)))
            if cycle in received:
                expected.append(Expected(cycle, "received_payload", received[cycle]))
        return Vectors(of).driver(inputs, expected)

    return driver


def _received(line: Sequence[int], bit: int) -> dict[int, int]:
    """Bytes by the cycle in which they come, from the levels that the receiver sees."""
    found, at = {}, 0
    while at + 10 * bit < len(line):
        middle = at + bit // 2
        if line[at] or line[middle]:  # idle, or a glitch
            at = (at if line[at] else middle) + 1
            continue
        *bits, stop = (line[middle + i * bit] for i in range(1, 10))
        at = middle + 9 * bit + 1
        if stop:
            found[at] = sum(level << i for i, level in enumerate(bits))
        else:
            at = next((i for i in range(at, len(line)) if line[i]), len(line)) + 1
    return found


def operand(wire: str) -> str:
    """Of an operand as the elements of `pe` and `systolic` have it, the fields that mean something."""
    laid = Unpacked.normalised(FP8)
    exponent = laid.precision + laid.exponent_bits
    sign, infinite, nan = (f"{wire}[{exponent + i}]" for i in range(3))
    nothing = f"{exponent}'d0"
    return (
        f"({nan} ? {{3'b100, {nothing}}} : {infinite} ? {{2'b01, {sign}, {nothing}}}"
        f" : {wire}[{laid.precision - 1}:0] == 0 ? {{2'b00, {sign}, {nothing}}} : {wire})"
    )


def total(wire: str) -> str:
    """A total as the elements of `systolic` give it: a multiple of its quantum, so that few of its bits can
    be 1 where its exponent is among the smallest; and 0 where it has no leading 1."""
    laid: Unpacked = ChunkedFloatPE(ChunkedFloat()).total
    p, size = laid.precision, laid.layout.size
    exponent = f"{wire}[{p + laid.exponent_bits - 1}:{p}]"
    kept = [
        f"{exponent} == {i} ? {{{wire}[{size - 1}:{p - 1 - i}], {p - 1 - i}'d0}} : " for i in range(p - 1)
    ]
    zero = f"{{{wire}[{size - 1}:{p}], {p}'d0}}"
    return f"({wire}[{p - 1}] ? ({''.join(kept)}{wire}) : {zero})"


def control(wire: str) -> str:
    """Of the control of an element: its bit `first` belongs to a fold."""
    return f"{{{wire}[1] & {wire}[0], {wire}[0]}}"


def _of_bench(variants: Mapping[str, Any], name: str, driver: Callable[[Any], Any]) -> Subject:
    unit, top = variants[name](), name.split()[0]
    latency = unit.stages if isinstance(unit, FloatAdder) else 0
    # An array's elements are units of their own.
    kept = (f"systolic.{type(unit.element).__name__}",) if top == "systolic" else ()
    meanings: dict[str, Callable[[str], str]] = {}
    if isinstance(getattr(unit, "arithmetic", None), ChunkedFloat):
        ports = {"systolic": ("a", "b"), "pe": ("a_out", "b_out")}.get(top, ())
        meanings = dict.fromkeys(ports, operand) | ({"chain_out": total} if top == "systolic" else {})
    return Subject(lambda: to_verilog(unit, top), top, driver(unit), kept, latency=latency, meanings=meanings)


Q2_6 = FixedFormat(2, 6)
_FIXED = Element(
    FixedPointPE(FixedPoint(Q2_6, Q2_6, Q2_6, random_bits=3, accumulator_bits=24), stages=4),
    shown=("a_out", "b_out", "control_out", "chain_out"),
)
_FUSED = Element(AlignedFloatPE(AlignedFloat(group=4, chunk=8), stages=3), shown=("control_out",))

_COMPRESSOR = AdaCompUnit(70, count_bits=8, stages=2)
_AVERAGE = AdaCompAverage(2, count_bits=16)

#: Name → unit; those of a bench have the name of its variant.
SUBJECTS: dict[str, Subject] = {
    **{
        name: _of_bench(bench.VARIANTS, name, driver)
        for bench, driver, names in (
            (
                rounding,
                rounding_driver,
                ("rounding", "rounding stochastic", "rounding stochastic, short random"),
            ),
            (lfsr, _lfsr, ("lfsr",)),
            (float_adder, _adder, tuple(float_adder.VARIANTS)),
            (pe, _pe, ("pe", "pe stochastic, 3 stages")),
            (systolic, _systolic, ("systolic 2 x 3, stochastic", "systolic 2 x 3, bitstream")),
        )
        for name in names
    },
    **{
        name: Subject(
            lambda unit=unit: to_verilog(Product(unit), "multiplier"),
            "multiplier",
            _multiplier(unit),
            latency=unit.stages,
        )  # type: ignore[misc]
        for name, unit in ((name, build()) for name, build in float_multiplier.VARIANTS.items())
    },
    "pe fixed_point": Subject(lambda: to_verilog(_FIXED, "pe"), "pe", _fixed_pe(_FIXED)),
    **{
        name: Subject(
            lambda unit=unit: to_verilog(unit, "unit"),  # type: ignore[misc]
            "unit",
            driver(unit),
            latency=RequantisationUnit.latency if isinstance(unit, RequantisationUnit) else 0,
        )
        for name, unit, driver in (
            ("pe integer", Element(IntegerPE(integers(3), stages=4, group=6)), integer_driver),
            (
                "pe integer, in multipliers",
                Element(IntegerPE(integers(4), stages=3, in_dsp=True, group=4)),
                integer_driver,
            ),
            ("pe aligned_float", _FUSED, fused_driver),
            ("requantisation", RequantisationUnit(21, 4), requantisation_driver),
        )
    },
    **{
        name: Subject(
            lambda unit=unit: to_verilog(unit, "update"),  # type: ignore[misc]
            "update",
            update_driver(bench, unit),
            valids={"results_payload": "results_valid"},
        )
        for bench in (float_sgd, fixed_sgd)
        for name, unit in ((name, build()) for name, build in bench.VARIANTS.items())
    },
    # Their adders are units of their own.
    "adacomp": Subject(
        lambda: to_verilog(_COMPRESSOR, "adacomp"),
        "adacomp",
        compressor_driver(_COMPRESSOR),
        ("adacomp.scale", *(f"adacomp.pipeline.{name}" for name in ("residue", "g", "h"))),
        valids={f"{name}_payload": f"{name}_valid" for name in ("pending", "packet", "summary")},
    ),
    "adacomp, mean of maxima": Subject(
        lambda: to_verilog(MeanOfMaxima(6), "mean"),
        "mean",
        mean_driver(MeanOfMaxima(6)),
        valids={"mean_payload": "mean_valid"},
    ),
    "adacomp_average": Subject(
        lambda: to_verilog(_AVERAGE, "adacomp_average"),
        "adacomp_average",
        average_driver(_AVERAGE),
        ("adacomp_average.pipeline.add",),
        valids={"sums_payload": "sums_valid"},
    ),
    "link": Subject(
        linked_verilog, "linked", link_driver, ("linked.unit",), valids={"sent_payload": "sent_valid"}
    ),
    "uart": Subject(
        lambda: to_verilog(UART(5), "uart"),
        "uart",
        uart_driver(UART(5)),
        valids={"received_payload": "received_valid"},
    ),
    **{
        f"commands {name}": Subject(
            lambda name=name: hollow(name)[0],  # type: ignore[misc]
            "accelerator",
            command_driver(name),
            ("accelerator.update_stream.unit",),
            valids={"responses_payload": "responses_valid"},
            meanings={f"element_{i}_control": control for i in range(20)},
        )
        for name in ("fp8", "fixed point")
    },
    "axi": Subject(
        axi_verilog,
        "axi_accelerator",
        axi_driver,
        ("axi_accelerator.accelerator",),
        valids={
            "s_axi_bresp": "s_axi_bvalid",
            "s_axi_rdata": "s_axi_rvalid",
            "s_axi_rresp": "s_axi_rvalid",
            "m_axis_tdata": "m_axis_tvalid",
            "m_axis_tlast": "m_axis_tvalid",
        },
    ),
}
