"""The counters that COUNTERS tells: every bit of them, where no test waits for 2**32 cycles."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from amaranth.sim import Simulator
from test_mutations import mutated

from quaver.rtl.commands import Opcode

CYCLES = "cycles = Signal(32)"
MULTIPLIED = "multiplied = Signal(32)"


def counted(begin: int, *edit: str) -> list[tuple[int, int, int, int]]:
    """Cycles and products as they are and as the writer tells them, a command after the other; it begins with
    `begin` of each. An edit of its source may be made besides."""
    old = f"{CYCLES}\n        {MULTIPLIED}"
    new = old.replace("Signal(32)", f"Signal(32, init={begin})")
    with mutated("accelerator/response_writer", old, new.replace(*edit) if edit else new):
        writer = sys.modules["quaver.rtl.accelerator.response_writer"].ResponseWriter([1, 2, 3])
        simulator = Simulator(writer)
    found = []

    async def bench(ctx: Any) -> None:
        ctx.set(writer.responses.ready, 1)
        cycles = products = begin
        for wait in range(5, 12):
            for _ in range(wait):
                ctx.set(writer.multiplying, wait % 2)
                await ctx.tick()
                cycles, products = cycles + 1, products + wait % 2
            ctx.set(writer.headers.payload, {"opcode": Opcode.COUNTERS, "status": 0, "length": 2})
            ctx.set(writer.headers.valid, 1)
            ctx.set(writer.multiplying, 0)
            words = []
            while len(words) < 3:
                if ctx.get(writer.responses.valid):
                    words.append(ctx.get(writer.responses.payload))
                if ctx.get(writer.headers.valid & writer.headers.ready):
                    seen = cycles % (1 << 32), products % (1 << 32)
                await ctx.tick()
                ctx.set(writer.headers.valid, 0)
                cycles += 1
            found.append((*seen, *words[1:]))

    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


@pytest.mark.parametrize("bit", [8, 16, 28, 31, 32])
def test_counters_carry_into_every_bit(bit: int) -> None:
    found = counted((1 << bit) - 25)
    assert all((cycles, products) == (told, also) for cycles, products, told, also in found)
    assert {cycles >> min(bit, 31) for cycles, *_ in found} == {0, 1}


def test_a_counter_of_28_bits_is_caught() -> None:
    found = counted((1 << 28) - 25, CYCLES.replace("32", f"32, init={(1 << 28) - 25}"), "cycles = Signal(28)")
    assert any(cycles != told for cycles, _, told, _ in found)
