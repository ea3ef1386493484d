"""The accelerator: GEMMs and updates through its driver, both streams stalling at random, against golden."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import cocotb
import numpy as np
from cocotb.task import bridge, resume
from cocotb.triggers import RisingEdge

from quaver.golden.arithmetic.aligned_float import AlignedFloat
from quaver.golden.arithmetic.bitstream import Bitstream
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.arithmetic.integer import Integer
from quaver.golden.arithmetic.named import named
from quaver.golden.contracts import Codes
from quaver.golden.formats import IntegerFormat
from quaver.golden.requantisation import Requantisation
from quaver.golden.rounding import Rounding
from quaver.golden.update.float_sgd import FloatSGD
from quaver.host.driver import Driver
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.rtl.update.float_sgd import FloatSGDUnit
from quaver.sim.benches.bench import Bench, start
from quaver.sim.coverage import Coverage

VARIANTS = {
    "accelerator": lambda: Accelerator(
        ChunkedFloat(chunk=8), rows=2, columns=3, stages=4, depth=48, update=FloatSGDUnit(stages=2)
    ),
    "accelerator 3 x 1, 2 stages": lambda: Accelerator(
        ChunkedFloat(chunk=16), rows=3, columns=1, stages=2, depth=20
    ),
    "accelerator 3 x 2, stochastic": lambda: Accelerator(
        ChunkedFloat(chunk=5, rounding=Rounding.STOCHASTIC), rows=3, columns=2, stages=3, depth=20
    ),
    "accelerator 3 x 2, fixed_point": lambda: Accelerator(
        FixedPoint(), rows=3, columns=2, stages=3, depth=20
    ),
    "accelerator 2 x 3, aligned_float": lambda: Accelerator(
        AlignedFloat(group=4, chunk=16), rows=2, columns=3, stages=3, depth=6
    ),
    "accelerator 3 x 2, integer": lambda: Accelerator(
        Integer(), rows=3, columns=2, stages=3, depth=5, codes=3
    ),
    "accelerator 3 x 2, bitstream": lambda: Accelerator(
        Bitstream(length=16, generator="van_der_corput"), rows=3, columns=2, stages=2, depth=20
    ),
}
#: On demand only: to time cocotb beside the simulation in process (bench/simulation.py); at gate level.
OTHERS = {
    "accelerator 8 x 8": lambda: Accelerator(ChunkedFloat(), rows=8, columns=8),
    "accelerator 1 x 1": lambda: Accelerator(
        ChunkedFloat(chunk=8), rows=1, columns=1, stages=2, depth=8, update=FloatSGDUnit(stages=2)
    ),
    "accelerator 2 x 2, stochastic": lambda: Accelerator(
        ChunkedFloat(chunk=8, rounding=Rounding.STOCHASTIC), rows=2, columns=2, stages=2, depth=16
    ),
    "accelerator 1 x 1, integer": lambda: Accelerator(
        named("int2"), rows=1, columns=1, stages=2, depth=2, codes=2
    ),
    "accelerator 1 x 1, bitstream": lambda: Accelerator(
        Bitstream(length=16, accumulator_bits=14), rows=1, columns=1, stages=2, depth=16
    ),
}
#: (M, K, N): less than a tile, exact tiles, more K than the memory holds.
SHAPES = ((1, 1, 1), (2, 8, 12), (5, 9, 13), (3, 64, 5), (4, 60, 7), (7, 20, 25))
#: How often the sender offers a word and the receiver takes one.
RATES = ((1.0, 1.0), (0.5, 1.0), (1.0, 0.3), (0.2, 0.2), (1.0, 0.1), (0.6, 0.6))
#: Elements of an update: an odd number leaves half a pair empty.
UPDATES = (1, 70, 33)
RULE = FloatSGD(rate=0.125, momentum=0.875, decay=0.0625)
PATIENCE = 20_000


class Streams:
    """A `quaver.host.transport.Transport` over the two streams, which pause at random.

    The driver runs in a thread of its own; the simulation advances while it waits in `receive` or `reset`.
    """

    def __init__(self, dut: Any, rng: np.random.Generator) -> None:
        self.dut, self.rng = dut, rng
        self.rates = RATES[0]
        self.cycles = 0
        self.waiting: deque[int] = deque()
        self.received: deque[int] = deque()
        self.coverage = Coverage(
            {
                "commands": ["taken at once", "kept waiting", "pause of the sender"],
                "responses": ["taken at once", "kept waiting", "none to take"],
            }
        )
        self.receive = resume(self._receive)
        self.reset = resume(self._reset)

    def send(self, words: np.ndarray) -> None:
        self.waiting.extend(words.tolist())

    async def _receive(self, count: int) -> np.ndarray:
        patience = self.cycles + PATIENCE
        while len(self.received) < count:
            await RisingEdge(self.dut.clk)
            if self.cycles > patience:
                raise TimeoutError(f"{len(self.received)} words of {count} in {PATIENCE} cycles")
        return np.array([self.received.popleft() for _ in range(count)], np.uint32)

    async def _reset(self) -> None:
        self.waiting.clear()
        self.received.clear()

    async def run(self) -> None:
        """Move words, a cycle at a time, for ever."""
        dut, edge = self.dut, RisingEdge(self.dut.clk)
        command, command_valid, command_ready = dut.commands_payload, dut.commands_valid, dut.commands_ready
        response, response_valid, response_ready = (
            dut.responses_payload,
            dut.responses_valid,
            dut.responses_ready,
        )
        offered, willing = 0, 0
        chances: Iterator[list[float]] = iter(())
        while True:
            await edge
            self.cycles += 1
            if offered:
                taken = int(command_ready.value)
                self.coverage.hit("commands", "taken at once" if taken else "kept waiting")
                if taken:
                    self.waiting.popleft()
                    offered = 0
            elif self.waiting:
                self.coverage.hit("commands", "pause of the sender")
            given = int(response_valid.value)
            if given and willing:
                self.received.append(int(response.value))
            self.coverage.hit(
                "responses", ("taken at once" if willing else "kept waiting") if given else "none to take"
            )
            chance = next(chances, None)
            if chance is None:
                chances = iter(self.rng.random((4096, 2)).tolist())
                chance = next(chances)
            if not offered and self.waiting and chance[0] < self.rates[0]:
                command.value = self.waiting[0]
                offered = 1
            willing = int(chance[1] < self.rates[1])
            command_valid.value, response_ready.value = offered, willing


def requantisation(sums: Codes, fmt: IntegerFormat, bits: int, rng: np.random.Generator) -> Requantisation:
    """One of columns of either sign, which takes sums as large as these from one end of the codes to the
    other and beyond; now and then one whose few bits are dropped so that there are ties."""
    columns, steps = sums.shape[1], float(1 << bits)
    largest = float(np.abs(fmt.integers(sums)).max(initial=1))
    if rng.random() < 0.5:
        shift = max(1, int(np.log2(largest / steps)) + 1)
        multipliers = rng.choice(np.array([-3, -1, 1, 3]), columns)
        offsets = rng.integers(0, 1 << (shift + bits), columns)
        return Requantisation(np.asarray(multipliers), np.asarray(offsets), shift, bits)
    factors = rng.choice([-1, 1], columns) * rng.uniform(0.3, 1, columns) * steps / largest
    return Requantisation.of(factors, rng.uniform(0, steps, columns), bits)


@cocotb.test()
async def gemms_and_updates(dut: Any) -> None:
    with Bench(VARIANTS | OTHERS) as bench:
        unit, rng, arithmetic = bench.unit, bench.rng, bench.unit.arithmetic
        large, single = unit.geometry.rows >= 8, unit.geometry.rows * unit.geometry.columns == 1
        dut.commands_valid.value = dut.responses_ready.value = dut.commands_payload.value = 0
        await start(dut)
        streams = Streams(dut, rng)
        pump = cocotb.start_soon(streams.run())
        began = time.perf_counter()
        driver = await bridge(Driver)(streams, arithmetic)
        # Integers reach further than 1: codes of every kind.
        spread = float(arithmetic.a.max_value) / 3 if isinstance(arithmetic, Integer) else 1.0
        for rates in RATES[:1] if large else RATES[::3] if single else RATES:
            streams.rates = rates
            for m, k, n in ((64, 256, 64),) if large else SHAPES[::2] if single else SHAPES:
                a = arithmetic.a.encode(rng.normal(0, spread, (m, k)))
                b = arithmetic.b.encode(rng.normal(0, spread, (k, n)))
                seed = int(rng.integers(1, 1 << 32)) if arithmetic.stochastic else None
                expected = arithmetic.gemm(a, b, seed=seed)
                got = await bridge(driver.gemm)(a, b, seed=seed)
                results = [(expected, got, arithmetic.result)]
                if unit.identity.codes:
                    requantise = requantisation(expected, arithmetic.result, unit.identity.codes, rng)
                    requantised = requantise(arithmetic.result.integers(expected))
                    got = await bridge(driver.gemm)(a, b, requantisation=requantise)
                    results.append((requantised, got, IntegerFormat(requantise.bits)))
                for expected, got, fmt in results:
                    for i, j in np.ndindex(m, n):
                        bench.equal(
                            int(expected[i, j]),
                            int(got[i, j]),
                            fmt,
                            shape=f"{m} × {k} × {n}",
                            rates=str(rates),
                            i=i,
                            j=j,
                        )
            for count in UPDATES if unit.update_stream else ():
                codes = [RULE.format.encode(rng.normal(0, scale, count)) for scale in (1, 0.1, 0.1)]
                seed = int(rng.integers(1, 1 << 32))
                wanted = RULE.update(*codes, seed=seed)
                updated = await bridge(driver.update)(RULE, *codes, seed=seed)
                for what, new, old in zip(("weight", "momentum"), wanted, updated, strict=True):
                    for i, (x, y) in enumerate(zip(new.tolist(), old.tolist(), strict=True)):
                        bench.equal(x, y, RULE.format, output=what, element=i, of=count, rates=str(rates))
        pump.cancel()
        bench.figures = {
            "cycles": streams.cycles,
            "cycles/s": streams.cycles / (time.perf_counter() - began),
        }
        if not large:
            bench.cover(streams.coverage)
