"""Bit streams in hardware: every bit of every stream, every count, and the whole accelerator; with slips put
in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator
from netlists import Netlist, codes, netlists, planes

import quaver.rtl.accelerator.accelerator
import quaver.rtl.array.operand_random
import quaver.rtl.array.systolic
import quaver.rtl.pe.bitstream
import quaver.rtl.random_sources
from quaver.golden.arithmetic import Bitstream
from quaver.golden.arithmetic.bitstream import COLUMN_STREAMS, ROW_STREAMS
from quaver.golden.formats import SignMagnitudeFormat
from quaver.golden.lfsr import LFSR
from quaver.host.driver import Driver
from quaver.host.transport import response, send
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.array import operand_random, systolic
from quaver.rtl.pe import pe_for
from quaver.rtl.pe.bitstream import BitstreamPE, Stream
from quaver.sim.device import SimulatedDevice

SM4, SM5, SM6 = map(SignMagnitudeFormat, (4, 5, 6))
#: Streams shorter than, as long as and longer than the numbers' range; both operands' patterns.
STREAMS = [
    Bitstream(SM4, SM6, 16),
    Bitstream(SM5, SM4, 32, generator="van_der_corput"),
    Bitstream(SM6, SM5, 16, generator="van_der_corput"),
    Bitstream(SM4, SM6, 16, "xnor"),
    Bitstream(SM5, SM4, 32, "xnor", "van_der_corput"),
]


def wrong_bits(arithmetic: Bitstream, netlist: Netlist, is_a: bool) -> int:
    """Bits of streams that are not golden's, for every code and every number drawn in two products."""
    fmt = arithmetic.a if is_a else arithmetic.b
    bits = arithmetic.number_bits(fmt)
    code, random = np.divmod(np.arange(1 << (fmt.bits + bits)), 1 << bits)
    values = fmt.integers(code.astype(fmt.code_dtype))
    thresholds = values + (1 << fmt.fraction_bits) if arithmetic.bipolar else np.abs(values)
    pattern = arithmetic._edges[not is_a].pattern
    state, wrong = None, 0
    # Before the second product a few cycles that are none's, as after a reset.
    for t in (*range(arithmetic.length), None, None, None, *range(arithmetic.length)):
        numbers = (random + 3 * (t or 0)) % (1 << bits)
        begin = np.full(len(code), t == 0)
        inputs = {"code": planes(code, fmt.bits), "random": planes(numbers, bits)}
        if "begin" in netlist.inputs:  # drawn numbers need no cycle
            inputs["begin"] = planes(begin, 1)
        got, state = netlist.step(inputs, state)
        number = codes(got["number"], len(code))
        if t is not None:
            sign = 0 if arithmetic.bipolar else code >> fmt.fraction_bits
            wanted = ((numbers ^ pattern[t]) < thresholds) | (sign << 1)
            wrong += int(np.count_nonzero(number != wanted))
    return wrong


def both_streams(make: type[Stream], arithmetic: Bitstream) -> list[Stream]:
    return [make(arithmetic, is_a) for is_a in (True, False)]


def test_every_bit_of_a_stream() -> None:
    units = [unit for arithmetic in STREAMS for unit in both_streams(Stream, arithmetic)]
    for i, netlist in enumerate(netlists(units)):
        assert wrong_bits(STREAMS[i // 2], netlist, i % 2 == 0) == 0


#: The narrowest counter and a wide one, with and without the register behind the gate.
ELEMENTS = [
    (Bitstream(length=16, accumulator_bits=6), 2),
    (Bitstream(length=16, accumulator_bits=8), 4),
    (Bitstream(length=32, accumulator_bits=24), 3),
    (Bitstream(length=16, accumulator_bits=6, circuit="xnor"), 2),
    (Bitstream(length=16, accumulator_bits=8, circuit="xnor"), 4),
]
LANES = 256


class Column:
    """Many elements at once, each with streams of its own: a lane of a netlist is an element."""

    def __init__(self, pe: BitstreamPE, netlist: Netlist) -> None:
        self.pe, self.netlist, self.state = pe, netlist, None
        self.rng = np.random.default_rng(1)
        self.wrong = 0
        self.step(2)
        self.step(1)  # of a tile whose totals are ignored

    def step(self, kind: int, bits: np.ndarray | None = None) -> None:
        """A bubble (0), a fold (1) or a product (2) of `bits` (cycles, a and b, bit and sign, lanes)."""
        ignored = kind == 0 and self.pe.arithmetic.bipolar  # a bubble that is a fold without begin
        for cycle in range(self.pe.product_cycles):
            anything = self.rng.integers(0, 2, (2, 2, LANES))
            now = anything if kind == 1 or bits is None else bits[cycle]
            now = now * [[[kind != 0 or ignored], [1]]]
            fold, begin = kind == 1 or ignored, cycle == 0 and not ignored
            self._cycle(np.full(LANES, fold | (int(self.rng.integers(2)) << 1) | begin << 2), now)

    def _cycle(self, control: np.ndarray, bits: np.ndarray, shift: int = 0, above: int = 0) -> np.ndarray:
        """One cycle; a cycle later what was given goes out to the neighbours. The totals before its edge."""
        width, signs = self.pe.arithmetic.accumulator_bits, not self.pe.arithmetic.bipolar
        inputs = {
            "control": planes(control, 3),
            "a": planes(bits[0, 0] | bits[0, 1] * signs << 1, 1 + signs),
            "b": planes(bits[1, 0] | bits[1, 1] * signs << 1, 1 + signs),
            "shift": planes(np.full(LANES, shift), 1),
            "chain_in": planes(np.full(LANES, above % (1 << width)), width),
        }
        outputs, self.state = self.netlist.step(inputs, self.state)
        passed, _ = self.netlist.step(inputs, self.state)
        for name in ("control", "a", "b"):
            self.wrong += int(np.count_nonzero(passed[f"{name}_out"] != inputs[name]))
        return codes(outputs["chain_out"], LANES)

    def count(self, products: list[np.ndarray]) -> None:
        """Products, and bubbles among them; then their count, and what comes from above."""
        for i, bits in enumerate(products):
            if i % 2:
                self.step(0)
            self.step(2, bits)
        self.step(1)
        nothing = np.zeros((2, 2, LANES), np.int64)
        idle = np.full(LANES, int(self.pe.arithmetic.bipolar))
        for _ in range(max(0, self.pe.latency - self.pe.product_cycles)):
            self._cycle(idle, nothing)
        (a, p), (b, q) = np.moveaxis(np.array(products), (2, 3), (0, 1))
        ones, down = (1, a ^ b) if self.pe.arithmetic.bipolar else (a & b, p ^ q)
        total = (ones * (1 - 2 * down)).sum((0, 1)) % (1 << self.pe.arithmetic.accumulator_bits)
        for above, expected in ((5, total), (3, 5), (0, 3)):
            self.wrong += int(np.count_nonzero(self._cycle(idle, nothing, 1, above) != expected))


def products_of(pe: BitstreamPE, count: int, seed: int) -> list[np.ndarray]:
    """Streams of any bits; in the last lanes of ones alone, up and down, to the ends of the counter."""
    rng = np.random.default_rng(seed)
    shape = (pe.product_cycles, 2, 2, LANES)
    found = [rng.integers(0, 2, shape) for _ in range(count)]
    for bits in found:
        bits[:, :, 1] = bits[0, :, 1]  # a sign stays for a product
        bits[:, :, 0, -2:] = 1
        bits[:, 0, 1, -2:], bits[:, 1, 1, -2:] = 0, [0, 1]
        if pe.arithmetic.bipolar:
            bits[:, 1, 0, -2:] = [0, 1]
    return found


def wrong_counts(pe: BitstreamPE, netlist: Netlist) -> int:
    """Counts of a few tiles that are not those of their streams, and bits that are not passed on."""
    column = Column(pe, netlist)
    for seed, count in enumerate((1, min(pe.arithmetic.chunk, 9), min(pe.arithmetic.chunk, 4))):
        column.count(products_of(pe, count, seed))
    return column.wrong


def test_every_count() -> None:
    pes = [BitstreamPE(arithmetic, stages=stages) for arithmetic, stages in ELEMENTS]
    for pe, netlist in zip(pes, netlists(pes), strict=True):
        assert wrong_counts(pe, netlist) == 0, pe.arithmetic


#: seed, rows of tiles, columns of tiles: several GEMMs, one after the other.
GEMMS = ((77, 2, 2), (5, 1, 1), (0xFFFFFFFF, 1, 3))


def wrong_states(rows: int, columns: int, bits: tuple[int, int] = (7, 3)) -> int:
    """Where the corner's states are not golden's, over tiles with pauses between their draws."""
    unit = operand_random.OperandRandom(rows, columns, bits)
    rng = np.random.default_rng(1)
    arithmetic = Bitstream()
    expected: list[tuple[int, int] | None] = []
    found: list[int] = []

    async def bench(ctx: Any) -> None:
        async def cycle(draws: int, begins: int, states: tuple[int, int] | None) -> None:
            ctx.set(unit.draws, draws)
            ctx.set(unit.begins, begins)
            expected.append(states)
            await ctx.tick()
            if len(expected) >= unit.latency and (wanted := expected[-unit.latency]) is not None:
                found.append((ctx.get(unit.random.row), ctx.get(unit.random.column)) != wanted)

        for seed, m_tiles, n_tiles in GEMMS:
            for i, j in np.ndindex(m_tiles, n_tiles):
                x, y, z = arithmetic.sources(seed) if i == j == 0 else (1, 2, 3)
                ctx.set(unit.sources, {"row": x, "column": y, "diagonal": z})
                ctx.set(unit.first_tile, int(i == j == 0))
                ctx.set(unit.first_column, int(j == 0))
                x, y, _ = arithmetic.sources(seed, i * rows, j * columns)
                of_row, of_column = LFSR(x, ROW_STREAMS.taps), LFSR(y, COLUMN_STREAMS.taps)
                for n in range(int(rng.choice([1, 3, 9]))):
                    of_row.draw(bits[0])
                    of_column.draw(bits[1])
                    states = of_row.state, of_column.state
                    await cycle(1, int(n == 0), states)
                    while rng.random() < 0.3:
                        await cycle(0, 0, states)  # they stay
        await cycle(0, 0, None)

    simulate(unit, bench)
    assert len(found) > 20
    return sum(found)


def simulate(unit: Any, bench: Callable[[Any], Any]) -> None:
    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 4), (13, 6)])
def test_the_generators_at_the_corner(rows: int, columns: int) -> None:
    assert wrong_states(rows, columns) == 0


def wrong_streams(arithmetic: Bitstream, rows: int, columns: int, products: int) -> int:
    """Bits at the elements of an array's left and upper edge that are not golden's, stream by stream."""
    seed, rng = 99, np.random.default_rng(2)
    elements: list[Any] = []

    def recorded(arithmetic: Any, *, stages: int) -> Any:
        elements.append(pe_for(arithmetic, stages=stages))
        return elements[-1]

    with put(systolic, pe_for=recorded):
        array = systolic.SystolicArray(arithmetic, rows, columns, 2)
        top = Module()
        top.submodules.array = array
        bits, length = array.element.draws, arithmetic.length
        top.submodules.corner = corner = operand_random.OperandRandom(rows, columns, bits)
        top.d.comb += array.random.eq(corner.random)
        a, b = (
            rng.integers(0, 1 << fmt.bits, (n, products))
            for fmt, n in ((arithmetic.a, rows), (arithmetic.b, columns))
        )
        golden = []
        for edge, fmt, values, which in zip(
            arithmetic._edges, (arithmetic.a, arithmetic.b), (a, b), (0, 1), strict=True
        ):
            integers = fmt.integers(values.astype(fmt.code_dtype)).tolist()
            places = [arithmetic.sources(seed, i, i)[which] for i in range(len(values))]
            golden.append(
                [
                    arithmetic._bits(*each, fmt, row)
                    for each, row in zip(((p, edge) for p in places), integers, strict=True)
                ]
            )
        wrong = []

        async def bench(ctx: Any) -> None:
            x, y, z = arithmetic.sources(seed)
            ctx.set(corner.sources, {"row": x, "column": y, "diagonal": z})
            ctx.set(corner.first_tile, 1)
            ctx.set(corner.first_column, 1)
            left = [elements[0], *elements[columns::columns]]
            steps = [k for k in range(products) for _ in range(2)]  # every other one is a bubble
            cycles = len(steps) * length

            def product(t: int) -> int | None:
                return steps[t // length] if 0 <= t < cycles and t // length % 2 == 0 else None

            for t in range(cycles + 2 + max(rows, columns)):
                draws = product(t) is not None and (array.element.cycles_a_draw == 1 or t % length == 0)
                ctx.set(corner.draws, int(draws))
                ctx.set(corner.begins, int(t == 0))
                now = t - corner.latency
                ignored = product(now) is None and arithmetic.bipolar
                begin = int(now % length == 0 and not ignored)
                ctx.set(array.control, {"fold": int(ignored), "first": 0, "last": 0, "begin": begin})
                for edge, values in ((array.a, a), (array.b, b)):
                    for i, row in enumerate(values):
                        k = product(now - i)
                        ctx.set(edge[i], 0 if k is None else int(row[k]))
                for which, at, port in ((0, left, "a"), (1, elements, "b")):
                    for i, streams in enumerate(golden[which]):
                        k = product(now - i)
                        bit = ctx.get(getattr(at[i], port)).bit
                        bubble = ctx.get(at[i].control.fold) or now < i if arithmetic.bipolar else not bit
                        wrong.append(not bubble if k is None else bit != streams[k][(now - i) % length])
                await ctx.tick()

        simulate(top, bench)
    assert len(wrong) > rows * products * length
    return sum(wrong)


@contextmanager
def put(module: Any, **values: Any) -> Iterator[None]:
    """Other values for names of a module, for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(module, name, value)
        yield


@pytest.mark.parametrize(
    "arithmetic", STREAMS, ids=lambda one: f"{one.a} {one.b} {one.length} {one.circuit} {one.generator}"
)
def test_every_stream_of_an_array(arithmetic: Bitstream) -> None:
    assert wrong_streams(arithmetic, 3, 4, 3) == 0


#: name → (old text, new text): of the element, of the comparators, at the corner, along the edges.
ELEMENT_SLIPS = {
    "an or gate": ("a.bit & b.bit", "(a.bit | b.bit)"),
    "a sign is left out": ("a.sign ^ b.sign", "a.sign & b.sign"),
    "counts in folds": (" & ~control.fold, ", ", "),
    "takes the count again in a fold": ("control.fold & control.begin", "control.fold"),
    "counts down without a one": ("Cat(one, one & down)", "Cat(one, down)"),
    "only counts up": ("Cat(one, one & down)", "Cat(one, 0)"),
    "the count is kept": ("[count.eq(0), total", "[total"),
    "a bit too few in the counter": (
        "count = Signal(self.chain_out.shape()",
        "count = Signal(signed(len(self.chain_out) - 1)",
    ),
    "totals do not move on": ("total.eq(self.chain_in)", "total.eq(total)"),
    "the sign comes early": ("zip((one, down, takes), before", "zip((one, takes), before[::2]"),
}
XNOR_SLIPS = {
    "counts in folds and bubbles": ("one, down = ~control.fold", "one, down = Const(1)"),
    "an exclusive-or": ("a.bit ^ b.bit", "~(a.bit ^ b.bit)"),
    "takes the count in bubbles": ("control.fold & control.begin", "control.fold"),
}
STREAM_SLIPS = {
    "not less, but at most": ("number < threshold", "number <= threshold"),
    "upside down": ("number < threshold", "~number < threshold"),
    "the pattern runs on": ("Mux(self.begin, 0, counted)", "counted"),
    "the pattern is not reversed": ("*reversed(cycle[:bits])", "*cycle[:bits]"),
    "the lowest bits of the cycle": ("cycle[-more:]", "cycle[:bits]"),
    "one pattern for both": ("if not self.is_a", "if True"),
}
BIPOLAR_SLIPS = {
    "the sign the other way round": ("Mux(sign, half -", "Mux(~sign, half -"),
    "the sign bit as in two's complement": ("half - magnitude", "magnitude"),
}
CORNER_SLIPS = {
    "runs on in bubbles": ("with m.If(draws)", "with m.If(1)"),
    "never begins anew": ("Mux(begins, start[name], state)", "state"),
    "another polynomial": ("bits, source.taps", "bits"),
    "a step less a draw": ("state), bits,", "state), bits - 1,"),
}
PLACE_SLIPS = {
    "as places of rounding": ("if i & places == i", "if i == places"),
    "the ends of the power alone": ("if i & places == i", "if i in (0, places)"),
}


def mutant(module: ModuleType, edit: tuple[str, str]) -> Any:
    source = Path(str(module.__file__)).read_text()
    assert source.count(edit[0]) == 1, f"there {source.count(edit[0])} times: {edit[0]}"
    found = ModuleType("mutant")
    exec(compile(source.replace(*edit), "mutant", "exec"), found.__dict__)
    return found


def test_slips_of_the_element_are_seen() -> None:
    pes = [
        mutant(quaver.rtl.pe.bitstream, edit).BitstreamPE(arithmetic, stages=stages)
        for slips, (arithmetic, stages) in ((ELEMENT_SLIPS, ELEMENTS[1]), (XNOR_SLIPS, ELEMENTS[-1]))
        for edit in slips.values()
    ]
    for name, pe, netlist in zip((*ELEMENT_SLIPS, *XNOR_SLIPS), pes, netlists(pes), strict=True):
        assert wrong_counts(pe, netlist), name


@pytest.mark.slow
def test_slips_of_the_streams_are_seen() -> None:
    wide = replace(STREAMS[1], b=SM4)  # both patterns: a number shorter than the cycle's, one as long
    slips = [(name, edit, wide) for name, edit in STREAM_SLIPS.items()]
    slips += [(name, edit, STREAMS[-1]) for name, edit in BIPOLAR_SLIPS.items()]
    made = [(mutant(quaver.rtl.pe.bitstream, edit), arithmetic) for _, edit, arithmetic in slips]
    found = netlists([unit for each, arithmetic in made for unit in both_streams(each.Stream, arithmetic)])
    for i, (name, _, arithmetic) in enumerate(slips):
        both = found[2 * i : 2 * i + 2]
        assert sum(
            wrong_bits(arithmetic, each, is_a) for each, is_a in zip(both, (True, False), strict=True)
        ), name


@pytest.mark.slow
def test_slips_at_the_corner_are_seen() -> None:
    for name, edit in CORNER_SLIPS.items():
        with put(operand_random, OperandRandom=mutant(quaver.rtl.array.operand_random, edit).OperandRandom):
            assert wrong_states(2, 3), name
    for name, edit in PLACE_SLIPS.items():
        with put(operand_random, streams_on=mutant(quaver.rtl.random_sources, edit).streams_on):
            assert wrong_states(2, 3), name


@pytest.mark.slow
def test_slips_along_the_edges_are_seen() -> None:
    """Among them the wrong sharings: one generator for all rows and all columns."""
    ours = quaver.rtl.random_sources.streams_on
    slips: dict[str, Callable[..., Any]] = {
        "one for all": lambda state, source, places: state,
        "rotated twice": lambda state, source, places: ours(state, source, 2),
        "hops as of rounding": quaver.rtl.random_sources.places_on,
    }
    for name, slip in slips.items():
        with put(systolic, streams_on=slip):
            assert wrong_streams(STREAMS[0], 2, 2, 1), name


def test_the_accelerator() -> None:
    """Tiles of every shape, many of them in one GEMM, slices of K, and both streams stalling; sums to the
    ends of the counter. The accelerator's bench has the other generator."""
    arithmetic = Bitstream(length=16, accumulator_bits=13)
    size = {"rows": 2, "columns": 3, "stages": 4, "depth": 48}
    device = SimulatedDevice(Accelerator(arithmetic, **size))
    driver, rng = Driver(device, arithmetic), np.random.default_rng(3)
    formats = arithmetic.a, arithmetic.b
    shapes = [(1, 1, 1), (2, 8, 12), (5, 9, 13), (3, arithmetic.chunk, 5), (17, 3, 20), (4, 100, 7)]
    for i, (m, k, n) in enumerate(shapes):
        device.stall(1, *((0.3, 0.6) if i % 2 else (0.0, 0.0)))
        a, b = (
            rng.integers(0, 1 << fmt.bits, shape).astype(fmt.code_dtype)
            for fmt, shape in zip(formats, ((m, k), (k, n)), strict=True)
        )
        if k == arithmetic.chunk:  # the largest magnitudes, of one sign a row and a column
            a, b = (
                fmt.codes(fmt.highest * np.sign(fmt.integers(codes)[edge]) * np.ones(codes.shape))
                for fmt, codes, edge in zip(formats, (a, b), (np.s_[:, :1], np.s_[:1]), strict=True)
            )
        seed = int(rng.integers(1, 1 << 32))
        got = driver.gemm(a, b, seed=seed)
        np.testing.assert_array_equal(got, arithmetic.gemm(a, b, seed=seed))
    assert not np.array_equal(got, arithmetic.gemm(a, b, seed=seed ^ 1))  # another seed would be seen

    # A tile that is abandoned, and a reset: the next GEMM begins its draws and its counts anew.
    for commands in (1, 4, 8):
        for opcode, arguments, words, _ in islice(
            driver._commands(a, b, np.zeros_like(got), driver._sources(8), None), commands
        ):
            send(device, opcode, arguments, words)
            response(device, opcode)
        if commands == 8:
            device.reset()
        np.testing.assert_array_equal(driver.gemm(a, b, seed=seed), got)

    # The array multiplies in N cycles for every product.
    assert driver.geometry.product_cycles == arithmetic.length
    device.stall(1, 0.0, 0.0)
    rows, columns = size["rows"], size["columns"]
    a, b = np.ones((4 * rows, 15), np.uint8), np.ones((15, 4 * columns), b.dtype)
    before = driver.counters()
    driver.gemm(a, b, seed=1)
    after = driver.counters()
    multiplied, cycles = after.multiplied - before.multiplied, after.cycles - before.cycles
    assert multiplied == 4 * 15 * 4 * arithmetic.length
    assert multiplied < cycles < 1.25 * multiplied


def test_the_accelerator_of_bipolar_streams() -> None:
    """Every product counts there: between products nothing may, while memory and results stall. An
    accelerator whose control says nothing of bubbles is seen."""
    arithmetic = Bitstream(SM5, SM6, 16, "xnor", accumulator_bits=12)
    ours, found = quaver.rtl.accelerator.accelerator, []
    for module in (ours, mutant(ours, ("if arithmetic.identity is None", "if False"))):
        device = SimulatedDevice(module.Accelerator(arithmetic, rows=2, columns=3, stages=3, depth=12))
        driver, rng = Driver(device, arithmetic), np.random.default_rng(4)
        wrong = 0
        for i, (m, k, n) in enumerate([(1, 1, 1), (5, 9, 7), (3, arithmetic.chunk, 4), (9, 2, 10)]):
            device.stall(1, *((0.3, 0.6) if i % 2 else (0.0, 0.0)))
            a, b = (
                rng.integers(0, 1 << fmt.bits, shape).astype(fmt.code_dtype)
                for fmt, shape in ((arithmetic.a, (m, k)), (arithmetic.b, (k, n)))
            )
            seed = int(rng.integers(1, 1 << 32))
            wrong += np.count_nonzero(driver.gemm(a, b, seed=seed) != arithmetic.gemm(a, b, seed=seed))
        found.append(bool(wrong))
    assert found == [False, True]


def test_what_is_not_built() -> None:
    for change, message in (
        ({"circuit": "mux"}, "circuit is mux, but an element meets its K products one after the other"),
        ({"sharing": "one"}, "sharing is one, which shows what goes wrong, but the hardware has"),
    ):
        with pytest.raises(ValueError, match=message):
            pe_for(Bitstream(**change))
    with pytest.raises(ValueError, match="stages is 1, but a processing element of bit streams has 2 to 7"):
        pe_for(Bitstream(), stages=1)
