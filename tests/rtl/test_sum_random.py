"""Random bits for every sum in the accelerator: tiles, lanes, slices of K and stalls, with slips put in."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from amaranth.sim import Simulator

import quaver.rtl.array.sum_random
import quaver.rtl.random_sources
from quaver.golden.arithmetic.chunked_float import NO_CHUNKS, ChunkedFloat
from quaver.golden.formats import FP8, FP16, FloatFormat
from quaver.golden.random_bits import states, states_of
from quaver.host.driver import Driver
from quaver.host.transport import response, send
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.array.sum_random import SumRandom
from quaver.sim.device import SimulatedDevice
from quaver.sim.engine import SimulatedEngine

NAMES = ("row", "column", "diagonal")
#: seed, rows of tiles, columns of tiles: several GEMMs, one after the other.
GEMMS = ((77, 3, 2), (5, 1, 1), (0xFFFFFFFF, 1, 4), (9, 2, 1))


def wrong(make: type[SumRandom], rows: int, columns: int, lanes: int) -> list[tuple]:
    """Where the corner's states are not golden's, over GEMMS of tiles with bubbles between their sums."""
    unit = make(rows, columns, lanes)
    rng = np.random.default_rng(1)
    found: list[tuple] = []
    expected: list[tuple[int, ...] | None] = []

    async def step(ctx, begins: int, rounds: int, flags: tuple[int, int], sums: list) -> None:
        for lane in range(lanes):
            ctx.set(unit.begins, begins)
            ctx.set(unit.rounds, rounds)
            ctx.set(unit.last_lane, lane == lanes - 1)
            ctx.set(unit.first_tile, flags[0])
            ctx.set(unit.first_column, flags[1])
            expected.append(next(sums[lane]) if rounds else None)
            await ctx.tick()
            if len(expected) >= unit.latency and (wanted := expected[-unit.latency]) is not None:
                got = tuple(ctx.get(unit.random[name]) for name in NAMES)
                if got != wanted:
                    found.append((len(expected), wanted, got))

    async def bench(ctx) -> None:
        for seed, m_tiles, n_tiles in GEMMS:
            for i, j in np.ndindex(m_tiles, n_tiles):
                first = dict(zip(NAMES, states(seed) if i == j == 0 else (1, 2, 3), strict=True))
                ctx.set(unit.sources, first)
                at = i * rows, j * columns * lanes
                sums = [states_of(seed, at[0], at[1] + lane * columns) for lane in range(lanes)]
                flags = int(i == j == 0), int(j == 0)
                for n in range(int(rng.choice([1, 2, 7]))):
                    while rng.random() < 0.3:
                        await step(ctx, 0, 0, flags, sums)
                    await step(ctx, int(n == 0), 1, flags, sums)
        await step(ctx, 0, 0, (0, 0), [])

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


@pytest.mark.parametrize(("rows", "columns", "lanes"), [(1, 1, 1), (3, 4, 1), (2, 3, 4), (13, 13, 3)])
def test_the_states_at_the_corner(rows: int, columns: int, lanes: int) -> None:
    assert not wrong(SumRandom, rows, columns, lanes)


CORNER, STARTS = quaver.rtl.array.sum_random, quaver.rtl.random_sources
#: name → (module, old text, new text)
SLIPS = {
    "moves on in bubbles": (CORNER, "Mux(rounds, one_sum_on", "Mux(1, one_sum_on"),
    "never moves on": (CORNER, "Mux(rounds, one_sum_on", "Mux(0, one_sum_on"),
    "a sum too early": (
        CORNER,
        "self.random.eq(now)",
        "[self.random[n].eq(one_sum_on(now[n], s)) for n, s in (('row', ROW), ('column', COLUMN))]",
    ),
    "lanes swapped": (CORNER, "first_lane.eq(self.last_lane)", "first_lane.eq(1)"),
    "a tile goes on where the last one was": (
        CORNER,
        "Mux(begins, start",
        "Mux(0, start",
    ),
    "the next row of tiles keeps its seed": (
        STARTS,
        "m.d.comb += self.start.eq(below)",
        "m.d.comb += self.start.eq(self.sources)",
    ),
    "columns of another width": (
        STARTS,
        "column, self.columns)",
        "column, self.columns + 1)",
    ),
    "diagonals of another width": (
        STARTS,
        "diagonal, self.columns)",
        "diagonal, self.columns + 1)",
    ),
    "tiles of another height": (
        STARTS,
        "self.rows * diagonal.per_row",
        "self.rows",
    ),
    "another polynomial": (STARTS, "source.hop, source.taps)", "source.hop)"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_at_the_corner_is_seen(slip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unit, old, new = SLIPS[slip]
    source = Path(str(unit.__file__)).read_text()
    assert source.count(old) == 1, f"there {source.count(old)} times: {old}"
    mutant = ModuleType("mutant")
    exec(compile(source.replace(old, new), "mutant", "exec"), mutant.__dict__)
    make = SumRandom
    if unit is CORNER:
        make = mutant.SumRandom
    else:
        monkeypatch.setattr(CORNER, "TileStarts", mutant.TileStarts)
        monkeypatch.setattr(CORNER, "one_sum_on", mutant.one_sum_on)
    assert wrong(make, 3, 4, 2)


ARRAYS = [
    (ChunkedFloat(chunk=8, rounding="stochastic"), dict(rows=2, columns=3, stages=4, depth=48)),
    (
        ChunkedFloat(chunk=1, rounding="stochastic", random_bits=24),
        dict(rows=3, columns=1, stages=2, depth=20),
    ),
    (
        ChunkedFloat(FP16, FP16, NO_CHUNKS, "stochastic", 10),
        dict(rows=1, columns=4, stages=1, depth=33),
    ),
    (
        ChunkedFloat(FP8, FloatFormat(6, 5), 64, "stochastic", 11),
        dict(rows=5, columns=2, stages=3, depth=130),
    ),
]


@pytest.mark.parametrize(("arithmetic", "size"), ARRAYS, ids=str)
def test_the_accelerator_draws_what_golden_draws(arithmetic: ChunkedFloat, size: dict[str, int]) -> None:
    """Tiles of every shape, many of them in one GEMM, slices of K, and both streams stalling."""
    device = SimulatedDevice(Accelerator(arithmetic, **size))
    driver = Driver(device, arithmetic)
    rng = np.random.default_rng(3)
    for stalls in ((0.0, 0.0), (0.3, 0.6)):
        device.stall(1, *stalls)
        for m, k, n in ((1, 1, 1), (2, 8, 12), (5, 9, 13), (3, 64, 5), (4, 140, 7), (17, 3, 50), (40, 2, 3)):
            a, b = (arithmetic.operand.encode(rng.normal(size=shape)) for shape in ((m, k), (k, n)))
            seed = int(rng.integers(1, 1 << 32))
            got = driver.gemm(a, b, seed=seed)
            np.testing.assert_array_equal(got, arithmetic.gemm(a, b, seed=seed))
    assert not np.array_equal(got, arithmetic.gemm(a, b, seed=seed ^ 1))  # another seed would be seen


def test_draws_survive_what_was_left_open_and_a_reset() -> None:
    """A tile that is abandoned is cleared by a fold which draws nothing."""
    arithmetic, size = ARRAYS[0]
    device = SimulatedDevice(Accelerator(arithmetic, **size))
    driver = Driver(device, arithmetic)
    rng = np.random.default_rng(4)
    for shape in ((2, 100, 12), (5, 30, 20)):
        a, b = (FP8.encode(rng.normal(size=s)) for s in (shape[:2], shape[1:]))
        expected = arithmetic.gemm(a, b, seed=8)
        for commands in range(1, 6):
            for opcode, arguments, data, _ in islice(
                driver._commands(a, b, np.zeros_like(expected), driver._sources(8)), 3 * commands
            ):
                send(device, opcode, arguments, data)
                response(device, opcode)
            np.testing.assert_array_equal(driver.gemm(a, b, seed=8), expected)
            device.reset()
            np.testing.assert_array_equal(driver.gemm(a, b, seed=8), expected)


def test_engines_of_any_size_draw_the_same() -> None:
    arithmetic = ChunkedFloat(rounding="stochastic")
    rng = np.random.default_rng(5)
    a, b = FP8.encode(rng.normal(size=(9, 70))), FP8.encode(rng.normal(size=(70, 11)))
    expected = arithmetic.gemm(a, b, seed=3)
    for rows, columns, stages in ((1, 1, 2), (2, 5, 3)):
        engine = SimulatedEngine(rows=rows, columns=columns, stages=stages, depth=64)
        np.testing.assert_array_equal(engine.gemm(arithmetic, a, b, seed=3), expected)
