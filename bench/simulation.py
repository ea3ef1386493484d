"""How fast the 8 × 8 accelerator simulates: cycles a second in process, in cocotb, in Amaranth's simulator.

All three simulate the same accelerator, run GEMMs through the same driver, and compare the codes. The clock
is the wall's; in process also the processor's, which a busy machine does not slow down as much.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
from amaranth.sim import Simulator
from rich.console import Console
from rich.table import Table

from quaver.golden.arithmetic import ChunkedFloat
from quaver.host.driver import Driver
from quaver.rtl.accelerator.accelerator import Accelerator
from quaver.sim.device import SimulatedDevice
from quaver.sim.runner import run_bench

ARITHMETIC = ChunkedFloat()


def accelerator() -> Accelerator:
    return Accelerator(ARITHMETIC, rows=8, columns=8)


def operands(m: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    random, operand = np.random.default_rng(0), ARITHMETIC.operand
    return operand.encode(random.normal(size=(m, k))), operand.encode(random.normal(size=(k, n)))


def in_process(rounds: int, progress: Any) -> dict[str, float]:
    start = time.perf_counter()
    device = SimulatedDevice(accelerator(), progress=progress)
    ready = time.perf_counter() - start
    driver = Driver(device, ARITHMETIC)
    a, b = operands(256, 256, 128)
    wall, processor = [], []
    for _ in range(rounds):
        cycles, began, worked = device.cycles, time.perf_counter(), time.process_time()
        c = driver.gemm(a, b)
        wall.append((device.cycles - cycles) / (time.perf_counter() - began))
        processor.append((device.cycles - cycles) / (time.process_time() - worked))
    if not np.array_equal(c, ARITHMETIC.gemm(a, b)):
        raise SystemExit("the GEMM differs from the golden model")
    return {
        "cycles/s": statistics.median(wall),
        "cycles per processor second": statistics.median(processor),
        "ready after seconds": ready,
    }


class _AmaranthWords:
    """Records what the driver sends, to be replayed where a transport cannot wait."""

    def __init__(self, device: SimulatedDevice):
        self.device, self.sent, self.received = device, list[int](), list[int]()

    def send(self, words: np.ndarray) -> None:
        self.sent += words.tolist()
        self.device.send(words)

    def receive(self, count: int) -> np.ndarray:
        words = self.device.receive(count)
        self.received += words.tolist()
        return words

    def reset(self) -> None:
        self.device.reset()


def in_amaranth(cycles: int) -> dict[str, float]:
    """The words of a real session, replayed for some cycles; those that come out are compared."""
    recorder = _AmaranthWords(SimulatedDevice(accelerator()))
    Driver(recorder, ARITHMETIC).gemm(*operands(8, 16, 32))
    unit, out = accelerator(), []
    simulator = Simulator(unit)

    async def session(ctx: Any) -> None:
        sent = iter(recorder.sent)
        word = next(sent)
        ctx.set(unit.commands.valid, 1)
        ctx.set(unit.responses.ready, 1)
        for _ in range(cycles):
            ctx.set(unit.commands.payload, word)
            ready, valid, payload = (
                ctx.get(port) for port in (unit.commands.ready, unit.responses.valid, unit.responses.payload)
            )
            if valid:
                out.append(payload)
            if ready:
                word = next(sent, None)
                if word is None:
                    ctx.set(unit.commands.valid, 0)
                    word = 0
            await ctx.tick()

    simulator.add_clock(1e-6)
    simulator.add_testbench(session)
    began = time.perf_counter()
    simulator.run()
    rate = cycles / (time.perf_counter() - began)
    if not out or out != recorder.received[: len(out)]:
        raise SystemExit("Amaranth's simulator and the library differ")
    return {"cycles/s": rate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    with Console(stderr=True).status("") as status:
        rows = {"in process": in_process(options.rounds, status.update)}
        status.update("cocotb")
        found = run_bench("accelerator 8 x 8", progress=status.update)
        if found.failures:
            raise SystemExit("\n".join(found.failures))
        rows["cocotb"] = found.figures
        status.update("Amaranth's simulator")
        rows["Amaranth's simulator"] = in_amaranth(800)
    if options.json:
        print(json.dumps(rows))
        return
    table = Table(title=f"accelerator of 8 × 8 elements; in process: median of {options.rounds}")
    for header in ("", "cycles/s", "per processor second", "against cocotb"):
        table.add_column(header, justify="right" if header else "left")
    for name, row in rows.items():
        processor = row.get("cycles per processor second")
        table.add_row(
            name,
            f"{row['cycles/s']:,.0f}",
            f"{processor:,.0f}" if processor else "",
            f"{row['cycles/s'] / rows['cocotb']['cycles/s']:,.3g}×",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
