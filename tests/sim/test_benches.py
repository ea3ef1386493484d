"""The benches pass and leave no hole; a bench whose stimulus is cut short fails; the runner's answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quaver.golden.formats import FP16, FloatFormat
from quaver.golden.rounding import Rounding
from quaver.sim.benches.float_adder import pairs, randoms
from quaver.sim.coverage import AdderCoverage, holes
from quaver.sim.runner import UNITS, bench_names, run_bench, run_benches


@pytest.mark.parametrize("name", bench_names())
def test_bench(name: str) -> None:
    result = run_bench(name)
    assert not result.failures
    assert result.checks > 50


def test_another_seed_fills_every_bin_too() -> None:
    for seed in range(2, 5):
        for rounding in (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC):
            rng = np.random.default_rng(seed)
            a, b = pairs(FP16, rng, random_bits=16 * (rounding is Rounding.STOCHASTIC))
            coverage = AdderCoverage(FP16, rounding)
            for row in zip(a.tolist(), b.tolist(), randoms(16, rng, len(a)).tolist(), strict=True):
                coverage.sample(*row)
            assert not holes(coverage.counts)


@pytest.mark.parametrize(
    ("fmt", "rounding", "random_bits"),
    [(FloatFormat(4, 3), Rounding.NEAREST_EVEN, 0), (FloatFormat(4, 2), Rounding.STOCHASTIC, 2)],
)
def test_every_bin_of_the_adder_can_be_reached_and_there_are_no_others(
    fmt: FloatFormat, rounding: Rounding, random_bits: int
) -> None:
    """All pairs of a small format: a case without a bin would be a KeyError, a bin without a case a hole."""
    coverage = AdderCoverage(fmt, rounding, random_bits)
    for a, b, random in np.ndindex(1 << fmt.width, 1 << fmt.width, 1 << random_bits):
        coverage.sample(a, b, random)
    assert not holes(coverage.counts)


def test_stimulus_without_ties_leaves_holes() -> None:
    a, b = pairs(FP16, np.random.default_rng(1))
    coverage = AdderCoverage(FP16)
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        alone = AdderCoverage(FP16)
        alone.sample(x, y)
        if not any(n for name, n in alone.counts["rounding"].items() if "tie" in name):
            coverage.sample(x, y)
    ties = {f"rounding: {name}" for name in coverage.counts["rounding"] if "tie" in name}
    assert ties
    assert ties <= set(holes(coverage.counts))


def test_a_bench_with_a_hole_fails_in_the_simulator() -> None:
    result = run_bench("float_adder", module="adder_without_specials")
    assert result.checks > 1000
    assert "coverage hole: NaN by: infinity − infinity" in result.failures
    assert all(line.startswith("coverage hole: ") for line in result.failures)


def test_waves(tmp_path: Path) -> None:
    result = run_bench("rounding truncate", waves=tmp_path)
    assert result.waves == tmp_path / "rounding_truncate.vcd"
    text = result.waves.read_text()
    assert "$enddefinitions" in text
    assert "magnitude" in text


def test_an_unknown_bench() -> None:
    with pytest.raises(ValueError, match=f"no bench 'adder'; choose from {', '.join(UNITS)}"):
        run_benches(["adder"])
