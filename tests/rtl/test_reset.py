"""The board's reset: as long as said, from the beginning and whenever the clock was not good."""

from __future__ import annotations

from typing import Any

from amaranth.sim import Simulator

from quaver.fpga.reset import HeldReset


def test_it_is_held_as_long_as_said() -> None:
    unit = HeldReset(20)
    lengths: list[int] = []

    async def bench(ctx: Any) -> None:
        for glitch in (False, True):
            for _ in range(50):  # no clock to rely on yet
                await ctx.tick()
            assert ctx.get(unit.reset)
            ctx.set(unit.good, 1)
            if glitch:
                for _ in range(15):
                    await ctx.tick()
                ctx.set(unit.good, 0)
                await ctx.tick()
                ctx.set(unit.good, 1)
            cycles = 0
            while ctx.get(unit.reset):
                await ctx.tick()
                cycles += 1
            lengths.append(cycles)
            for _ in range(100):
                await ctx.tick()
                assert not ctx.get(unit.reset)
            ctx.set(unit.good, 0)
            for _ in range(3):
                await ctx.tick()
            assert ctx.get(unit.reset)

    simulator = Simulator(unit)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    assert lengths == [23, 23]  # a glitch begins it anew
