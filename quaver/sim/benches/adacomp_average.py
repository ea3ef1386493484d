"""The average: packets of several learners, one by one, against golden's, while every stream stalls."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np

from quaver.golden.compression import AdaComp
from quaver.rtl.compression.adacomp_average import AdaCompAverage
from quaver.sim.benches.adacomp import POINTS, cover, receive, values, words
from quaver.sim.benches.bench import Bench, start
from quaver.sim.benches.float_sgd import send
from quaver.sim.coverage import Coverage

VARIANTS = {"adacomp_average": AdaCompAverage, "adacomp_average 1 stage": lambda: AdaCompAverage(1)}
#: Length of bins, elements, what they are, and how many learners.
LAYERS = (
    (50, 1203, "training", 3),
    (50, 700, "sparse", 2),
    (64, 900, "sparse", 2),
    (5, 83, "ties", 7),
    (500, 1100, "training", 2),
    (1, 60, "sparse", 3),
    (3, 90, "tiny", 4),
    (7, 1, "training", 1),
    (9, 90, "any", 5),
    (4, 70, "zeros", 2),
)


@cocotb.test()
async def layers(dut: Any) -> None:
    with Bench(VARIANTS) as bench:
        rng, layout = bench.rng, bench.unit.settings.payload.shape()
        coverage = Coverage(POINTS | {"scale": POINTS["scale"][:-1]})
        for name in ("settings", "packet", "before"):
            getattr(dut, f"{name}_valid").value = 0
        dut.sums_ready.value = 0
        await start(dut)
        for number, (length, count, kind, learners) in enumerate(LAYERS):
            total, got = np.zeros(count, np.float32), [0] * count
            for learner in range(learners):
                gradient = values(kind, rng, count)
                packet, _ = AdaComp(length).compress(np.zeros_like(gradient), gradient)
                cover(coverage, packet)
                packet.add_to(total, learners)
                share = words(np.array([np.float32(packet.scale) / np.float32(learners)], np.float32))[0]
                settings = layout.const({"length": count, "bin_length": length, "share": share})
                pauses = ((0.5, 0.3, 0.1), (0, 0, 0), (0.1, 0.6, 0.3))[(number + learner) % 3]
                cocotb.start_soon(send(dut, "settings", [settings.as_value().value], rng, pauses[0]))
                cocotb.start_soon(send(dut, "packet", packet.elements.tolist(), rng, pauses[1]))
                cocotb.start_soon(send(dut, "before", got, rng, pauses[2]))
                got = await receive(dut, bench, "sums", count, pauses[2])
                for i, (expected, word) in enumerate(zip(words(total), got, strict=True)):
                    bench.equal(
                        expected, word, bins=length, elements=count, learner=learner, output=f"sum {i}"
                    )
        bench.cover(coverage)
