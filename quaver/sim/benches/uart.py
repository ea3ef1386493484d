"""The UART at the level of bits: bytes both ways at once, from a sender whose clock is off, with glitches."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge, RisingEdge, Timer

from quaver.rtl.link.uart import MAX_ERROR, UART, divisor_for
from quaver.sim.benches.bench import Bench, start
from quaver.sim.coverage import Coverage

#: Clock period of the bench, in ps.
PERIOD = 2000
VARIANTS = {
    "uart": lambda: UART(divisor_for(48e6, 3e6)),
    "uart 4 cycles a bit": lambda: UART(divisor_for(12e6, 3e6)),
}
BETWEEN = ("nothing", "a pause", "a glitch", "a byte without its stop bit")
#: Bytes each way.
BYTES = 400


@cocotb.test()
async def bytes_both_ways(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        rng, bit = bench.rng, bench.unit.divisor * PERIOD
        coverage = Coverage(
            {
                "sender": ["slow", "fast", "exact"],
                "between bytes": BETWEEN,
                "transmitter": ["at once", "after a pause"],
            }
        )
        dut.rx.value, dut.sent_valid.value, dut.sent_payload.value = 1, 0, 0
        await start(dut)
        received: list[int] = []

        async def take() -> None:
            while True:
                await RisingEdge(dut.clk)
                if dut.received_valid.value:
                    received.append(int(dut.received_payload.value))

        async def hold(level: int, bits: float, error: float = 0.0) -> None:
            dut.rx.value = level
            await Timer(max(1, round(bits * bit * (1 + error))), "ps")

        async def receiver() -> None:
            taking = cocotb.start_soon(take())
            sent = rng.integers(0, 256, BYTES).tolist()
            for byte in sent:
                name, error = (("slow", MAX_ERROR), ("fast", -MAX_ERROR), ("exact", 0.0))[rng.integers(3)]
                coverage.hit("sender", name)
                before = rng.integers(4)
                coverage.hit("between bytes", BETWEEN[before])
                if before == 1:
                    await hold(1, float(rng.uniform(0, 3)))
                elif before == 2:
                    await hold(0, 0.2)
                    await hold(1, 1)
                elif before == 3:
                    await hold(0, 12)
                    await hold(1, 1)
                await hold(0, 1, error)
                for i in range(8):
                    await hold(byte >> i & 1, 1, error)
                await hold(1, 1, error)
            await hold(1, 2)
            taking.cancel()
            bench.equal(len(sent), len(received), what="bytes received")
            for i, (a, b) in enumerate(zip(sent, received, strict=False)):
                bench.equal(a, b, received=i)

        async def transmitter() -> None:
            sent = rng.integers(0, 256, BYTES).tolist()
            sampling = cocotb.start_soon(sample(sent))
            for byte in sent:
                pause = int(rng.integers(0, 30 * bench.unit.divisor)) if rng.random() < 0.3 else 0
                coverage.hit("transmitter", "after a pause" if pause else "at once")
                for _ in range(pause):
                    await RisingEdge(dut.clk)
                dut.sent_payload.value, dut.sent_valid.value = byte, 1
                await RisingEdge(dut.clk)
                while not dut.sent_ready.value:
                    await RisingEdge(dut.clk)
                dut.sent_valid.value = 0
            await sampling

        async def sample(sent: list[int]) -> None:
            for i, byte in enumerate(sent):
                if int(dut.tx.value):
                    await FallingEdge(dut.tx)
                await Timer(bit // 2, "ps")
                levels = []
                for _ in range(10):
                    levels.append(int(dut.tx.value))
                    if len(levels) < 10:
                        await Timer(bit, "ps")
                frame = int(np.packbits(levels[1:9], bitorder="little")[0])
                bench.equal(byte, frame, transmitted=i)
                bench.equal(0b01, levels[0] << 1 | levels[9], start_and_stop=i)

        both = [cocotb.start_soon(receiver()), cocotb.start_soon(transmitter())]
        for task in both:
            await task
        bench.cover(coverage)
