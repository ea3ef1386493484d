"""The LFSR: every draw against the golden one, under random enables and loads."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from quaver.golden.lfsr import COLUMN_TAPS, TAPS
from quaver.golden.lfsr import LFSR as GoldenLFSR  # noqa: N811
from quaver.rtl.lfsr import LFSR
from quaver.sim.benches.bench import Bench, start

VARIANTS = {
    "lfsr": lambda: LFSR(16, TAPS, seed=0xDEADBEEF),
    "lfsr 14 bits of column taps": lambda: LFSR(14, COLUMN_TAPS),
    "lfsr 32 bits": lambda: LFSR(32, TAPS),
}
CYCLES = 5000


@cocotb.test()
async def draws(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        unit, rng = bench.unit, bench.rng
        golden = GoldenLFSR(unit.initial_seed, unit.taps)
        dut.enable.value = dut.load.value = 0
        dut.seed.value = 1
        await start(dut)
        edge = RisingEdge(dut.clk)
        await edge
        for cycle in range(CYCLES):
            enable, load = int(rng.random() < 0.8), int(rng.random() < 0.02)
            seed = int(rng.integers(1, 1 << 32))
            dut.enable.value, dut.load.value, dut.seed.value = enable, load, seed
            await edge
            before = GoldenLFSR(golden.state, unit.taps)
            drawn = golden.draw(unit.bits)
            bench.equal(drawn, int(dut.draw.value), cycle=cycle, state=before.state)
            if load:
                golden = GoldenLFSR(seed, unit.taps)
            elif not enable:
                golden = before
