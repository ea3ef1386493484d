"""The LFSR is quaver.golden.lfsr, draw for draw."""

import random

import pytest
from amaranth.sim import Simulator

from quaver.golden import lfsr
from quaver.golden.lfsr import COLUMN_TAPS, TAPS
from quaver.rtl.lfsr import LFSR


@pytest.mark.parametrize("taps", [TAPS, COLUMN_TAPS], ids=["row", "column"])
@pytest.mark.parametrize("bits", [1, 2, 14, 16, 24, 25, 31, 32])
def test_draws(bits, taps):
    unit, golden = LFSR(bits, taps, seed=0xDEADBEEF), lfsr.LFSR(0xDEADBEEF, taps)
    rng = random.Random(bits)

    async def bench(ctx):
        nonlocal golden
        want = golden.draw(bits)
        for cycle in range(300):
            assert ctx.get(unit.draw) == want
            enable, load = rng.getrandbits(1), cycle % 50 == 49
            seed = rng.randrange(1, 1 << 32)
            ctx.set(unit.enable, enable)
            ctx.set(unit.load, load)
            ctx.set(unit.seed, seed)
            await ctx.tick()
            if load:
                golden = lfsr.LFSR(seed, taps)
                want = golden.draw(bits)
            elif enable:
                want = golden.draw(bits)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("bits", [0, 33])
def test_refuses_a_draw_that_is_not_one(bits):
    with pytest.raises(ValueError, match=rf"^a draw of {bits} bits, but a draw takes 1 … 32$"):
        LFSR(bits)


def test_refuses_a_zero_seed():
    with pytest.raises(ValueError, match=r"^LFSR seed is 0"):
        LFSR(8, seed=0)
