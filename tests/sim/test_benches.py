"""The benches pass and leave no hole; a bench whose stimulus is cut short fails; the runner's answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import pywellen

from quaver.golden.formats import FP16, FloatFormat
from quaver.golden.rounding import Rounding
from quaver.rtl.emit.verilog import to_verilog
from quaver.sim.benches import float_adder
from quaver.sim.benches.float_adder import pairs, randoms
from quaver.sim.benches.rounding import VARIANTS
from quaver.sim.coverage import AdderCoverage, holes
from quaver.sim.runner import SIMULATORS, UNITS, bench_names, run_bench, run_benches

#: The benches of `make test`: of each unit the first, and what differs most from it. `make test-slow` runs
#: them all.
FAST = (
    *UNITS,
    *("float_adder stochastic", "systolic 2 x 3, stochastic", "systolic 2 x 3, bitstream"),
    *("accelerator 2 x 3, aligned_float", "accelerator 3 x 2, integer"),
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in bench_names()]
)
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


def test_a_bench_with_a_hole_fails_in_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_adder, "pairs", float_adder.pairs)  # the hole must not stay in this process
    result = run_bench("float_adder", module="adder_without_specials")
    assert result.checks > 1000
    assert "coverage hole: NaN by: infinity − infinity" in result.failures
    assert all(line.startswith("coverage hole: ") for line in result.failures)


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_waves(simulator: str, tmp_path: Path) -> None:
    """Another program reads in them what the bench gave, and what the unit made of it."""
    if simulator == "icarus" and shutil.which("iverilog") is None:
        pytest.skip("Icarus Verilog is not installed")
    result = run_bench("rounding truncate", waves=tmp_path, simulator=simulator)
    assert result.waves == tmp_path / "rounding_truncate.fst"
    signals = {signal.full_name: signal.signal for signal in pywellen.Waveform(str(result.waves)).all_vars()}
    magnitude, rounded = signals["rounding.magnitude"], signals["rounding.rounded"]
    moments = [1000 * nanosecond + 500 for nanosecond in range(1, result.checks - 1)]  # a magnitude each
    seen = [magnitude.value_at(picosecond) for picosecond in moments]
    assert seen == list(range(seen[0], seen[0] + len(moments)))
    assert [rounded.value_at(picosecond) for picosecond in moments] == [code >> 3 for code in seen]


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")
@pytest.mark.parametrize(
    "name", ["float_multiplier 2 stages", "float_adder 3 stages", "pe", "lfsr", "rounding truncate"]
)
def test_bench_in_icarus(name: str) -> None:
    result = run_bench(name, simulator="icarus")
    assert not result.failures
    assert result.checks > 50


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")
@pytest.mark.parametrize("name", bench_names())
def test_every_bench_in_icarus(name: str) -> None:
    assert not run_bench(name, simulator="icarus").failures


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")
def test_a_wrong_unit_is_caught_in_icarus() -> None:
    unit = VARIANTS["rounding truncate"]()
    wrong = to_verilog(unit, "rounding").replace("assign rounded = magnitude", "assign rounded = ~magnitude")
    result = run_bench("rounding truncate", verilog=wrong, simulator="icarus")
    assert "expected" in result.failures[0]


def test_without_icarus_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    message = "no iverilog; install Icarus Verilog 11 or later, or take --simulator verilator"
    with pytest.raises(RuntimeError, match=f"^{message}$"):
        run_benches(["rounding truncate"], simulator="icarus")


def test_no_place_for_waves_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "waves").touch()
    said: list[str] = []
    with pytest.raises(FileExistsError):
        run_benches(["rounding truncate"], waves=True, progress=said.append)
    assert said == []


def test_icarus_is_not_asked_for_cells_that_it_does_not_read() -> None:
    with pytest.raises(ValueError, match="of ecp5 cells are Verilog that icarus does not read"):
        run_benches(["lfsr"], gates="ecp5", simulator="icarus")


def test_an_unknown_bench() -> None:
    with pytest.raises(ValueError, match=f"no bench 'adder'; choose from {', '.join(UNITS)}"):
        run_benches(["adder"])
