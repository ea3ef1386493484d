"""What every bench needs inside the simulator: unit, random numbers, report, and a way to drive ports."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from amaranth.lib import wiring
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer

from quaver.golden.formats import Format
from quaver.sim.coverage import Coverage, holes

#: Mismatches that a report spells out; the rest are only counted.
SHOWN = 5


class Bench:
    """One run of a bench; leaving its `with` block hands the report to `quaver.sim.runner`.

    Parameters
    ----------
    variants
        The module's VARIANTS; the runner says which one is simulated.

    Attributes
    ----------
    unit
        The unit under test as Amaranth describes it: formats, latencies and the like are read from here.
    rng
        Source of all stimulus.
    """

    def __init__(self, variants: Mapping[str, Callable[[], wiring.Component]]) -> None:
        settings = json.loads(os.environ["QUAVER_BENCH"])
        self.unit: Any = variants[settings["name"]]()
        self.seed: int = settings["seed"]
        self.rng = np.random.default_rng(self.seed)
        self._report = Path(settings["report"])
        self.checks = self.mismatches = 0
        self.failures: list[str] = []
        self.figures: dict[str, float] = {}
        self._coverage: Coverage | None = None

    def equal(
        self, expected: int | str, got: int | str, fmt: Format | None = None, **inputs: int | str
    ) -> None:
        """Check one output; `fmt`, where it has one, and `inputs` make the message of a mismatch."""
        self.checks += 1
        if expected != got:
            given = ", ".join(f"{name}={_shown(value, None)}" for name, value in inputs.items())
            self.fail(f"{given}: expected {_shown(expected, fmt)}, got {_shown(got, fmt)}")

    def fail(self, line: str) -> None:
        """Report one mismatch."""
        self.mismatches += 1
        if self.mismatches <= SHOWN:
            self.failures.append(line)

    def cover(self, coverage: Coverage) -> None:
        """The coverage that goes into the report; a hole in it fails the bench."""
        self._coverage = coverage

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            where = traceback.extract_tb(trace)[-1]
            self.failures.append(
                f"{Path(where.filename).name}:{where.lineno}: {type(error).__name__}: {error}"
            )
        elif not self.checks:
            self.failures.append("the bench checked nothing")
        if self.mismatches > SHOWN:
            self.failures.append(f"… {self.mismatches:,} mismatches in all")
        counts = self._coverage.counts if self._coverage else {}
        report = {
            "checks": self.checks,
            "failures": self.failures,
            "coverage": counts,
            "figures": self.figures,
        }
        self._report.write_text(json.dumps(report), encoding="utf-8")
        assert error or not (self.failures or holes(counts)), "the report has the mismatches and the holes"


def coded(fmt: Format, code: int) -> str:
    """A code with its value, for the message of a mismatch."""
    return f"{code:#06x} ({float(fmt.decode(np.array(code)))!r})"


def _shown(value: int | str, fmt: Format | None) -> str:
    if isinstance(value, str):
        return value
    return hex(value) if fmt is None else coded(fmt, value)


async def start(dut: Any, inputs: Iterable[str] = ()) -> None:
    """Start the clock and reset the unit, with zeros at `inputs`: in a simulator of four states an unknown
    one at the first edge would leave unknown sums behind, which no reset clears."""
    dut.clk.value = 0
    for name in inputs:
        getattr(dut, name).value = 0
    await Timer(1, "ns")
    Clock(dut.clk, 2, "ns").start()
    dut.rst.value = 1
    await RisingEdge(dut.clk)
    await RisingEdge(dut.clk)
    dut.rst.value = 0


async def trace(dut: Any, outputs: Sequence[str], **inputs: Sequence[int]) -> list[tuple[int, ...]]:
    """Give a row of `inputs` every cycle, the clock running; the `outputs` at the end of each."""
    ports = [getattr(dut, name) for name in inputs]
    wanted = [getattr(dut, name) for name in outputs]
    edge = RisingEdge(dut.clk)
    seen = []
    for row in zip(*inputs.values(), strict=True):
        for port, value in zip(ports, row, strict=True):
            port.value = value
        await edge  # values are read as they were before it
        seen.append(tuple(int(port.value) for port in wanted))
    return seen


async def outputs(dut: Any, output: str, latency: int, **inputs: Sequence[int]) -> list[int]:
    """One value of `output` for each row of `inputs`, one row a cycle; latency 0 is combinational."""
    if latency:
        await start(dut, inputs)
        padded = {name: [*column, *[0] * latency] for name, column in inputs.items()}
        return [got for (got,) in await trace(dut, [output], **padded)][latency:]
    ports = [getattr(dut, name) for name in inputs]
    wanted, moment = getattr(dut, output), Timer(1, "ns")
    seen = []
    for row in zip(*inputs.values(), strict=True):
        for port, value in zip(ports, row, strict=True):
            port.value = value
        await moment
        seen.append(int(wanted.value))
    return seen
