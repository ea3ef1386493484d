"""The rounding unit is quaver.golden.rounding.round_magnitude."""

import random

import pytest
from amaranth.sim import Simulator

from quaver.golden.rounding import Rounding as RoundingMode
from quaver.golden.rounding import round_magnitude
from quaver.rtl.rounding import Rounding


def assert_twins(unit, cases):
    async def bench(ctx):
        for magnitude, r in cases:
            ctx.set(unit.magnitude, magnitude)
            if unit.rounding.draws:
                ctx.set(unit.random, r)
            await ctx.delay(1e-9)
            want = round_magnitude(magnitude, unit.dropped_bits, unit.rounding, r, unit.random_bits)
            assert ctx.get(unit.rounded) == want, f"{magnitude:#x}, random {r:#x}"
            assert ctx.get(unit.up) == want - (magnitude >> unit.dropped_bits)

    simulator = Simulator(unit)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("rounding", list(RoundingMode))
@pytest.mark.parametrize("dropped", [0, 1, 2, 3, 5])
def test_every_magnitude_and_draw(rounding, dropped):
    draws = range(8) if rounding.draws else range(1)
    assert_twins(Rounding(6, dropped, rounding, 3), [(m, r) for m in range(64) for r in draws])


@pytest.mark.parametrize(("width", "dropped", "bits"), [(20, 12, 4), (20, 4, 16), (24, 14, 14), (12, 11, 1)])
def test_wide(width, dropped, bits):
    rng = random.Random(width)
    for variant in ("stochastic", "stochastic-b", "stochastic-c"):
        cases = [(rng.getrandbits(width), rng.getrandbits(bits)) for _ in range(300)]
        assert_twins(Rounding(width, dropped, variant, bits), cases)


@pytest.mark.parametrize("dropped", [-1, 8])
def test_refuses_to_drop_what_is_not_there(dropped):
    with pytest.raises(ValueError, match=rf"^dropped_bits is {dropped}, but of 8 bits 0 to 7 can go$"):
        Rounding(8, dropped)


def test_refuses_no_random_bits():
    with pytest.raises(ValueError, match=r"^random_bits is 0, but stochastic rounding takes 1 … 32$"):
        Rounding(8, 4, "stochastic", 0)
