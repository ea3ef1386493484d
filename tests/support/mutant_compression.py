"""Drivers of the mutants of AdaComp's units; each layer takes its cycles, as without a mutant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from adacomp_units import Averager, Compressor
from mutant_streams import seen
from mutant_vectors import Expected, Vectors
from mutants import Driver, Mutants

from quaver.golden.compression import AdaComp, NonFinite, Packet
from quaver.golden.compression.adacomp import mean_of_maxima
from quaver.golden.formats import FP32
from quaver.rtl.compression.adacomp import AdaCompUnit
from quaver.rtl.compression.adacomp_average import AdaCompAverage
from quaver.rtl.compression.mean_of_maxima import MeanOfMaxima
from quaver.sim.benches.adacomp import values

KINDS = "training", "sparse", "ties", "tiny", "any", "zeros", "exponents", "signs", "brink", "not finite"


def gradients(kind: str, rng: np.random.Generator, count: int) -> np.ndarray:
    """Those of the bench; and of many exponents, mostly 0; all sent; about half the largest, so that some
    ulp decide whether they are sent."""
    if kind == "exponents":
        drawn = rng.normal(0, 1, count) * np.exp2(rng.integers(-20, 20, count).astype(np.float32))
        return np.where(rng.random(count) < 0.8, 0, drawn).astype(np.float32)
    signs = np.where(rng.integers(0, 2, count), -1, 1).astype(np.float32)
    if kind == "signs":
        return signs
    if kind == "brink":
        largest = np.float32(rng.uniform(1, 2)).view(np.int32)
        codes = largest - (1 << FP32.mantissa_bits) + rng.integers(-20, 21, count)
        return np.where(rng.random(count) < 0.1, largest, codes).astype(np.int32).view(np.float32) * signs
    return values(kind, rng, count)


def stalls(rng: np.random.Generator, streams: int) -> Any:
    """Of each stream, of 256."""
    return tuple(rng.choice([0, 0, 20, 90, 200], streams).tolist())


@dataclass
class _Step:
    """A layer's elements, and what must come of them; None where nobody says what."""

    arguments: tuple[Any, ...]
    g: np.ndarray
    packet: Packet

    def hold(self, compressor: Compressor) -> None:
        """Run it, and compare."""
        kept, sent, elements, summary = compressor.run(*self.arguments)
        scale = np.array(self.packet.scale, np.float32).view(np.uint32)
        assert summary[0] == scale & 0x7FFFFFFF, "another scale"
        if self.packet.is_finite:
            assert np.array_equal(kept, self.g.view(np.uint32)), "another G"
            assert np.array_equal(np.flatnonzero(sent), self.packet.places()[0]), "others are sent"
            assert np.array_equal(elements, self.packet.elements), "another packet"
            assert summary[1:] == (len(elements), self.packet.sent), "other counts"


def _steps(bin_length: int, count: int, kinds: list[str], rng: np.random.Generator) -> list[_Step]:
    """Of one layer, whose residue stays in hardware's form and in golden's."""
    rule, steps = AdaComp(bin_length, NonFinite.PASS), []
    residue, kept = np.zeros(count, np.float32), np.zeros(count, np.uint32)
    sent, scale = np.zeros(count, bool), 0
    for kind in kinds:
        gradient = gradients(kind, rng, count)
        with np.errstate(over="ignore", invalid="ignore"):
            g = residue + gradient
        packet, residue = rule.compress(residue, gradient)
        steps.append(
            _Step((bin_length, kept, sent, scale, gradient, stalls(rng, 4)), g.astype(np.float32), packet)
        )
        if not packet.is_finite:
            break
        kept, sent = steps[-1].g.view(np.uint32), np.zeros(count, bool)
        sent[packet.places()[0]] = True
        scale = int(np.array(packet.scale, np.float32).view(np.uint32))
    return steps


def compressor_driver(unit: AdaCompUnit) -> Callable[[Mutants], Driver]:
    """Layers of all kinds over several steps; the longest there is; some are cut short by a reset."""

    def driver(of: Mutants) -> Driver:
        with TemporaryDirectory() as folder:
            compressor = Compressor(unit, Path(folder), of.verilog)
        rng, steps = np.random.default_rng(1), []
        lengths = [1, 2, 3, 7, 50, 63, 64, unit.longest]
        for i in range(96):
            bin_length = lengths[i % len(lengths)]
            count = int(rng.choice([1, bin_length, 5 * bin_length, *rng.integers(1, 200, 3)]))
            kinds = rng.choice(KINDS, 3).tolist()
            # What is not finite ends a layer.
            steps += _steps(bin_length, min(count, (1 << unit.count_bits) - 1), kinds, rng)
        bins = (1 << unit.count_bits) - 1
        for bin_length in (unit.longest, 1):
            steps += _steps(bin_length, bins * bin_length, ["sparse"], rng)
        for count in (bins * unit.longest, *rng.integers(1000, bins * unit.longest, 8).tolist()):
            steps += _steps(unit.longest, count, ["signs"], rng)
        cuts, taken = rng.integers(1, 700, len(steps)).tolist(), dict[int, int]()

        def run(mutant: int) -> str:
            def work() -> None:
                compressor.begin(mutant)
                for i, (step, cut) in enumerate(zip(steps, cuts, strict=True)):
                    if i % 4 == 3:
                        compressor.run(*step.arguments, limit=cut)
                        compressor.reset()
                    step.hold(compressor)
                    assert taken.setdefault(i, compressor.cycles) == compressor.cycles, (
                        "more cycles, or fewer"
                    )

            return seen(work)

        return run

    return driver


def mean_driver(unit: MeanOfMaxima) -> Callable[[Mutants], Driver]:
    """Runs of every length, each at its time; what comes while none is taken is no magnitude."""

    def driver(of: Mutants) -> Driver:
        rng = np.random.default_rng(1)
        longest, delay = (1 << unit.count_bits) - 1, 2 * (277 + unit.count_bits) + 6
        inputs: dict[str, list[int]] = {
            name: [] for name in ("rst", "maxima_valid", "maxima_payload", "mean_ready")
        }
        expected: list[Expected] = []

        def cycle(ready: int = 0, valid: int = 0, **given: int) -> None:
            """One in which a magnitude is taken or not, and a mean offered or not."""
            row = {"rst": 0, "maxima_valid": 0, "mean_ready": 0, "maxima_payload": int(rng.integers(1 << 32))}
            for name, value in (row | given).items():
                inputs[name].append(value)
            at = len(inputs["rst"]) - 1
            expected.append(Expected(at, "maxima_ready", ready))
            expected.append(Expected(at, "mean_valid", valid))

        def begins() -> None:
            for _ in range(256):
                cycle(maxima_valid=int(rng.integers(2)), mean_ready=int(rng.integers(2)))

        def take(magnitude: int, last: bool) -> None:
            while rng.random() < 0.2:
                cycle(ready=1, mean_ready=int(rng.integers(2)))
            cycle(ready=1, maxima_valid=1, maxima_payload=magnitude | last << 31)
            for _ in range((delay if last else 2) - 1):
                cycle(maxima_valid=int(rng.integers(2)), mean_ready=int(rng.integers(2)))

        begins()
        for index in range(250):
            count = (
                longest if index % 25 == 3 else int(rng.choice([1, 2, 3, *rng.integers(1, longest + 1, 2)]))
            )
            magnitudes = _magnitudes(index, count, rng)
            if index % 10 == 9:  # a reset where there are sums already, at any time up to the mean
                begun = len(inputs["rst"])
                for i, magnitude in enumerate(magnitudes):
                    take(magnitude, i == count - 1 and index % 20 == 9)
                end = int(rng.integers(begun, len(inputs["rst"]))) + 1
                for column in inputs.values():
                    del column[end:]
                expected = [e for e in expected if e.cycle < len(inputs["rst"])]
                inputs["rst"][-1] = 1
                begins()
                continue
            for i, magnitude in enumerate(magnitudes):
                take(magnitude, i == count - 1)
            sums = np.zeros(255, np.int64)
            for magnitude in magnitudes:
                exponent = magnitude >> FP32.mantissa_bits
                sums[exponent] += (magnitude & 0x7FFFFF) | (exponent > 0) << 23
            mean = int(np.array(mean_of_maxima(sums, count), np.float32).view(np.uint32))
            for wait in reversed(range(int(rng.integers(1, 4)))):
                cycle(valid=1, mean_ready=int(wait == 0), maxima_valid=int(rng.integers(2)))
                expected.append(Expected(len(inputs["rst"]) - 1, "mean_payload", mean))
        return Vectors(of).driver(inputs, expected)

    return driver


def _magnitudes(index: int, count: int, rng: np.random.Generator) -> list[int]:
    """Codes: of any size, of one exponent, subnormal, equal, the largest, sums about a tie."""
    exponent, kind = int(rng.integers(1, 255)), index % 7
    codes = rng.integers(0, FP32.infinity_code or 0, count)
    if kind == 1:
        codes = codes & 0x7FFFFF | exponent << 23
    elif kind == 2:
        codes = codes & 0xFFFFFF >> int(rng.integers(24))
    elif kind == 3:
        codes[:] = codes[0]
    elif kind == 4:
        codes = FP32.max_code - rng.integers(0, 2, count)
    elif kind == 5:
        codes = (codes & 0x7FFFFF | exponent << 23) + (rng.integers(-30, 1, count) << 23)
        codes = np.clip(codes, 0, FP32.max_code)
    elif kind == 6:  # a few ulps apart
        codes = (exponent << 23 | int(codes[0]) & 0x7FFFF0) + rng.integers(0, 3, count)
    return codes.tolist()


def average_driver(unit: AdaCompAverage) -> Callable[[Mutants], Driver]:
    """Packets of every kind, shares of any sign and size; the longest layer; some are cut by a reset."""

    def driver(of: Mutants) -> Driver:
        with TemporaryDirectory() as folder:
            averager = Averager(unit, Path(folder), of.verilog)
        rng, runs = np.random.default_rng(1), []
        most = (1 << unit.count_bits) - 1
        lengths = [1, 2, 3, 7, 50, 62, 63, 64, 65, 500]
        layers = [(lengths[i % 10], int(rng.integers(1, 700))) for i in range(100)]
        layers += [(16_383, most), (1, most), (16_383, 40_000)]
        for i, (bin_length, count) in enumerate(layers):
            kind = KINDS[:-1][i % 9] if i < 100 else ("sparse", "signs", "ties")[i % 3]
            gradient = gradients(kind, rng, count)
            packet, _ = AdaComp(bin_length).compress(np.zeros_like(gradient), gradient)
            share, *before = rng.normal(0, 1, 1 + count) * np.exp2(rng.integers(-30, 30, 1 + count))
            sums = np.array(before, np.float32)
            expected = sums.copy()
            packet.scatter(np.float32(share), expected)
            runs.append((packet, np.float32(share), sums, stalls(rng, 3), expected.view(np.uint32)))
        cuts, taken = rng.integers(1, 300, len(runs)).tolist(), dict[int, int]()

        def run(mutant: int) -> str:
            def work() -> None:
                averager.begin(mutant)
                for i, ((*given, expected), cut) in enumerate(zip(runs, cuts, strict=True)):
                    if i % 4 == 3:
                        averager.run(*given, limit=cut)
                        averager.reset()
                    assert np.array_equal(averager.run(*given).view(np.uint32), expected), "another sum"
                    assert taken.setdefault(i, averager.cycles) == averager.cycles, "more cycles, or fewer"

            return seen(work)

        return run

    return driver
