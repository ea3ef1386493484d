"""The weight update: every class of operand against the golden one, while both streams stall at random."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from numpy.typing import NDArray

from quaver.golden.contracts import HardwareRule
from quaver.golden.formats import E4M3, FP16, FloatFormat
from quaver.golden.rounding import Rounding
from quaver.golden.update.float_sgd import Update as GoldenUpdate
from quaver.rtl.update.float_sgd import Update
from quaver.sim.benches.bench import Bench, coded, start
from quaver.sim.coverage import Coverage, fixed_class, operand_class, operand_classes

VARIANTS = {
    "update": lambda: Update(FP16),
    "update nearest": lambda: Update(FP16, rounding=Rounding.NEAREST_EVEN),
    "update of E4M3 4 stages": lambda: Update(E4M3, random_bits=8, stages=4),
}
#: Rate, momentum, decay and number of elements of each run.
RUNS = ((0.125, 0.875, 0.25, 2000), (0.5, -1.5, 0.0, 1), (-2.0, 0.0, -0.5, 2000))
INPUTS, OUTPUTS = ("weight", "momentum", "gradient"), ("new weight", "new momentum")


def codes(fmt: FloatFormat, rng: np.random.Generator, count: int) -> NDArray[Any]:
    """`count` codes: any at all, such as training has, subnormals, zeros, the largest, infinities and NaN."""
    sign = fmt.sign_code * rng.integers(0, 2, count)
    edges = [0, fmt.max_code, fmt.nan_code if fmt.infinity_code is None else fmt.infinity_code]
    kinds = [
        rng.integers(0, 1 << fmt.width, count),
        fmt.encode(rng.normal(0, 0.1, count)).astype(np.int64),
        rng.integers(0, 1 << fmt.mantissa_bits, count) | sign,
        rng.choice(edges, count, p=(0.4, 0.4, 0.2)) | sign,
    ]
    chosen = np.choose(rng.choice(4, count, p=(0.2, 0.5, 0.2, 0.1)), kinds)
    chosen[::20] = sign[::20]  # zeros that meet
    return chosen.astype(fmt.code_dtype)


async def send(dut: Any, name: str, payloads: Iterable[int], rng: np.random.Generator, pause: float) -> None:
    """Hand `payloads` to stream `name`, pausing in this part of the cycles."""
    edge = RisingEdge(dut.clk)
    valid, ready, payload = (getattr(dut, f"{name}_{port}") for port in ("valid", "ready", "payload"))
    for word in payloads:
        while rng.random() < pause:
            await edge
        valid.value, payload.value = 1, word
        await edge
        while not int(ready.value):
            await edge
        valid.value = 0


async def receive(dut: Any, bench: Bench, count: int, pause: float) -> list[int]:
    """Take `count` results, pausing in this part of the cycles; a result must stay until it is taken."""
    edge = RisingEdge(dut.clk)
    got: list[int] = []
    offered = None
    while len(got) < count:
        takes = bench.rng.random() >= pause
        dut.results_ready.value = int(takes)
        await edge
        if int(dut.results_valid.value):
            payload = int(dut.results_payload.value)
            if offered is not None:
                bench.equal(offered, payload, result=len(got))
            offered = None if takes else payload
            if takes:
                got.append(payload)
        elif offered is not None:
            bench.fail(f"result {len(got)} was withdrawn")
    dut.results_ready.value = 0
    return got


async def hold(
    dut: Any, bench: Bench, runs: Sequence[tuple[HardwareRule, list[NDArray[Any]]]], coverage: Coverage
) -> None:
    """Send runs of rule and elements through the unit, and hold all results against the rule's own.

    The points of `coverage` are inputs and outputs, its bins classes of codes.
    """
    unit, rng = bench.unit, bench.rng
    layouts = {name: getattr(unit, name).payload.shape() for name in ("settings", "elements", "results")}
    words: list[tuple[int, list[int]]] = []
    expected: list[dict[str, int]] = []
    for rule, inputs in runs:
        seed = int(rng.integers(1, 1 << 32)) if rule.rounding is Rounding.STOCHASTIC else None
        outputs = rule.update(*inputs, seed=seed)
        given = zip(*(x.tolist() for x in inputs), strict=True)
        rows = [dict(zip(INPUTS, row, strict=True)) for row in given]
        settings = layouts["settings"].const(rule.scalars | ({"seed": seed} if seed else {}))
        elements = [layouts["elements"].const(row).as_value().value for row in rows]
        words.append((settings.as_value().value, elements))
        new = zip(*(x.tolist() for x in outputs), strict=True)
        expected += [row | dict(zip(OUTPUTS, pair, strict=True)) for row, pair in zip(rows, new, strict=True)]

    async def send_all() -> None:
        """Settings wait for the results of the run before: no element of theirs follows too early."""
        for i, (settings, elements) in enumerate(words):
            await send(dut, "settings", [settings], rng, 0)
            await send(dut, "elements", elements, rng, (0.3, 0, 0.1)[i % 3])

    formats = dict(zip(INPUTS, unit.formats * (3 // len(unit.formats)), strict=True))
    formats |= dict(zip(OUTPUTS, formats.values(), strict=False))
    classify = operand_class if isinstance(unit.formats[0], FloatFormat) else fixed_class
    dut.settings_valid.value = dut.elements_valid.value = dut.results_ready.value = 0
    await start(dut)
    cocotb.start_soon(send_all())
    for row, word in zip(expected, await receive(dut, bench, len(expected), 0.35), strict=True):
        shown = {name: coded(formats[name], row[name]) for name in INPUTS}
        got = layouts["results"].from_bits(word)
        for name, code in zip(OUTPUTS, (got.weight, got.momentum), strict=True):
            bench.equal(row[name], code, formats[name], output=name, **shown)
        for name, code in row.items():
            coverage.hit(name, classify(formats[name], code))
    bench.cover(coverage)


@cocotb.test()
async def runs(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        unit, fmt = bench.unit, bench.unit.format
        chosen = []
        for rate, momentum, decay, count in RUNS:
            rule = GoldenUpdate(rate, momentum, decay, fmt, unit.rounding, unit.random_bits)
            chosen.append((rule, [codes(fmt, bench.rng, count) for _ in INPUTS]))
        classes = dict.fromkeys(INPUTS + OUTPUTS, operand_classes(fmt))
        await hold(dut, bench, chosen, Coverage(classes))
