"""AdaComp in hardware: millions of elements against golden, what the benches catch, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from adacomp_units import Averager, Compressor
from test_mutations import mutated

from quaver.golden.compression import AdaComp
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.rtl.compression.adacomp_average import AdaCompAverage
from quaver.rtl.compression.mean_of_maxima import MeanOfMaxima
from quaver.rtl.emit.verilog import to_verilog
from quaver.sim.runner import run_bench

#: Module, old text, new text: an engineer's slips, one in each part.
MUTANTS = {
    "a tie is not sent": ("adacomp", "(read.data.h >= bound)", "(read.data.h > bound)"),
    "scale of the last step forgotten": ("adacomp", "Mux(kept.sent, scale[:31], 0)", "Mux(kept.sent, 0, 0)"),
    "an element of 0 sent": ("adacomp", " & read.data.g[:31].any()", ""),
    "runs of four cut": ("adacomp", "push.eq(held_valid | (empty == 3))", "push.eq(held_valid)"),
    "rounded down": ("mean_of_maxima", "up = half & (sticky", "up = half & 0 & (sticky"),
    "the remainder is no sticky bit": ("mean_of_maxima", "sticky | rest.any()", "sticky"),
    "subnormals have a leading bit": (
        "mean_of_maxima",
        "Cat(magnitude.mantissa, magnitude.exponent.any())",
        "Cat(magnitude.mantissa, 1)",
    ),
    "average: a run is one bin too long": (
        "adacomp_average",
        "Mux(run, upper + 1, empty)",
        "Mux(run, upper + 2, empty)",
    ),
    "average: signs exchanged": (
        "adacomp_average",
        "upper[0] ^ share[31]",
        "~upper[0] ^ share[31]",
    ),
}


@pytest.fixture(scope="module")
def compressor(tmp_path_factory: pytest.TempPathFactory) -> Compressor:
    return Compressor(AdaCompUnit(500, count_bits=22, stages=3), tmp_path_factory.mktemp("unit"))


def hold(compressor: Compressor, bin_length: int, count: int, steps: int, rng: np.random.Generator) -> None:
    """Steps of one layer, whose residue stays in hardware's form and in golden's."""
    rule = AdaComp(bin_length)
    residue, kept = np.zeros(count, np.float32), np.zeros(count, np.uint32)
    sent, scale = np.zeros(count, bool), 0
    for step in range(steps):
        gradient = rng.normal(0, 1, count).astype(np.float32)
        gradient *= np.exp2(rng.integers(-20, 20, count).astype(np.float32)) if step % 2 else 1
        gradient[rng.random(count) < (0.99, 0.2, 0)[step % 3]] = 0
        stalls = ((0, 0, 0, 0), (90, 90, 90, 90), (20, 200, 10, 0), (200, 0, 0, 0))[step % 4]
        g = residue + gradient
        kept, sent, elements, summary = compressor.run(bin_length, kept, sent, scale, gradient, stalls)
        packet, residue = rule.compress(residue, gradient)
        scale = summary[0]
        assert scale == int(np.float32(packet.scale).view(np.uint32))
        assert summary[1:] == (len(packet.elements), packet.sent)
        assert np.array_equal(elements, packet.elements)
        assert np.array_equal(kept, g.view(np.uint32))
        assert np.array_equal(np.flatnonzero(sent), packet.places()[0])


@pytest.mark.parametrize("bin_length", [1, 2, 3, 50, 63, 64, 500])
def test_thousands_of_elements(compressor: Compressor, bin_length: int) -> None:
    rng = np.random.default_rng(bin_length)
    for count in (1, bin_length, 7 * bin_length + 1, 3000):
        hold(compressor, bin_length, count, 4, rng)


def test_an_element_a_cycle(compressor: Compressor) -> None:
    """From end to end, with the scale: at most 1000 cycles more than elements."""
    gradient = np.random.default_rng(1).normal(size=20_000).astype(np.float32)
    zeros = np.zeros(len(gradient), np.uint32)
    for bin_length in (3, 50, 500):
        compressor.run(bin_length, zeros, zeros, 0, gradient)
        assert compressor.cycles < len(gradient) + bin_length + 1000


@pytest.mark.slow
def test_millions_of_elements(compressor: Compressor) -> None:
    rng = np.random.default_rng(1)
    for bin_length, count in ((50, 300_000), (500, 300_000)):
        hold(compressor, bin_length, count, 5, rng)


@pytest.mark.slow
def test_the_average_of_millions_of_elements(tmp_path: Path) -> None:
    """Packets of several learners, one into the other's sums, as golden adds them; one is taken off again."""
    averager, rng = Averager(AdaCompAverage(3), tmp_path), np.random.default_rng(1)
    for bin_length, count in ((50, 300_000), (500, 300_000), (3, 100_000)):
        sums, total, learners = np.zeros(count, np.float32), np.zeros(count, np.float32), 4
        for learner in range(learners):
            gradient = rng.normal(0, 1, count).astype(np.float32)
            gradient *= np.exp2(rng.integers(-20, 20, count).astype(np.float32)) if learner % 2 else 1
            gradient[rng.random(count) < (0.999, 0.2, 0, 0.9)[learner]] = 0
            packet, _ = AdaComp(bin_length).compress(np.zeros_like(gradient), gradient)
            share = np.float32(packet.scale) / np.float32(learners)
            stalls = ((0, 0, 0), (90, 90, 90), (20, 200, 10), (0, 10, 200))[learner]
            sums = averager.run(packet, share, sums, stalls)
            packet.add_to(total, learners)
            assert np.array_equal(sums.view(np.uint32), total.view(np.uint32))
        packet.scatter(-share, total)
        assert np.array_equal(averager.run(packet, -share, sums).view(np.uint32), total.view(np.uint32))
        assert averager.cycles < count + 10


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_cocotb_catches(name: str) -> None:
    module, old, new = MUTANTS[name]
    with mutated(f"compression/{module}", old, new):
        if module == "adacomp_average":
            from quaver.rtl.compression.adacomp_average import AdaCompAverage

            bench, unit = "adacomp_average", AdaCompAverage()
        else:
            for each in ("mean_of_maxima", "adacomp"):
                if each != module:  # what was imported before the edit must see the mutant
                    sys.modules.pop(f"quaver.rtl.compression.{each}", None)
            from quaver.rtl.compression.adacomp import AdaCompUnit

            bench, unit = "adacomp", AdaCompUnit(64, count_bits=12)
        verilog = to_verilog(unit, bench)
    assert run_bench(bench, verilog=verilog).failures


def test_what_constructors_refuse() -> None:
    with pytest.raises(ValueError, match="longest is 16384, but bins have 1 to 16,383 elements"):
        AdaCompUnit(16_384)
    with pytest.raises(ValueError, match="stages is 0, but an adder has 1 to 9"):
        AdaCompUnit(stages=0)
    with pytest.raises(ValueError, match="stages is 10, but an adder has 1 to 9"):
        AdaCompAverage(10)
    with pytest.raises(ValueError, match="count_bits is 0, but a layer's length has 1 to 32 bits"):
        AdaCompAverage(count_bits=0)
    with pytest.raises(ValueError, match="count_bits is 33, but a run's length has 1 to 32 bits"):
        MeanOfMaxima(33)
