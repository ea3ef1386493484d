"""What a new arithmetic takes: a pair of files and the lines that name them. Then it trains, is simulated,
and becomes Verilog and a board's bitstream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_integer import ToyInteger, UnsignedFormat
from toy_integer_pe import ToyIntegerPE

from quaver import cli
from quaver.fpga.boards import BOARDS
from quaver.fpga.build import build, plan
from quaver.fpga.design import Design
from quaver.golden import data
from quaver.golden.arithmetic import ARITHMETICS
from quaver.golden.arithmetic.named import named, spelled
from quaver.golden.descriptor import Descriptor, descriptor
from quaver.golden.engine import GoldenEngine
from quaver.golden.formats import FixedFormat
from quaver.golden.formats.names import FORMATS
from quaver.golden.nn import models, recipes
from quaver.golden.nn.recipe import Precision
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
from quaver.rtl.pe import PES
from quaver.sim.engine import SimulatedEngine

WIDE = ToyInteger(UnsignedFormat(4, 4), FixedFormat(2, 6), 24)


@pytest.fixture(autouse=True)
def a_pair_of_files_and_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARITHMETICS, "toy_integer", ToyInteger)
    monkeypatch.setitem(PES, "toy_integer", ToyIntegerPE)
    monkeypatch.setitem(FORMATS, "UnsignedFormat", UnsignedFormat)


def operands(arithmetic: ToyInteger, m: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(m * k + n)
    return tuple(  # type: ignore[return-value]
        rng.integers(0, 1 << fmt.width, shape).astype(fmt.code_dtype)
        for fmt, shape in ((arithmetic.a, (m, k)), (arithmetic.b, (k, n)))
    )


@pytest.mark.parametrize(
    "arithmetic",
    [
        pytest.param(ToyInteger(), id="4 × 2 bits"),
        pytest.param(WIDE, id="8 × 8 bits", marks=pytest.mark.slow),
    ],
)
def test_the_simulated_accelerator_computes_the_definition(arithmetic: ToyInteger) -> None:
    engine = SimulatedEngine(2, 3)
    for shape in ((1, 1, 1), (2, 8, 3), (9, 37, 11)):
        a, b = operands(arithmetic, *shape)
        expected = arithmetic.definition(a, b)
        np.testing.assert_array_equal(arithmetic.gemm(a, b), expected)
        np.testing.assert_array_equal(engine.gemm(arithmetic, a, b), expected)


def test_it_trains_on_golden_and_on_the_simulated_accelerator_alike() -> None:
    recipe = replace(recipes.fp32, name="toy", hidden=Precision(forward=WIDE))
    digits, losses = data.load("digits"), []
    for engine in (GoldenEngine(), SimulatedEngine(4, 4)):
        network = models.build("mlp", digits.shape, digits.classes, seed=1)
        trainer = Trainer(network, digits, recipe, Settings(epochs=1), engine=engine)
        losses.append([trainer.train_step().loss for _ in range(3)])
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


def test_it_has_a_name_and_a_descriptor() -> None:
    assert named("toy_integer", accumulator_bits=20) == ToyInteger(accumulator_bits=20)
    assert named(spelled(WIDE)) == WIDE
    assert Descriptor.parse(str(descriptor(WIDE))).describes(WIDE)


def test_it_becomes_verilog(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "accelerator.v"
    arguments = ["accelerator", "--arithmetic", "toy_integer", "--rows", "2", "--columns", "2"]
    assert cli.main(["verilog", *arguments, "-o", str(output)]) == 0, capsys.readouterr().err
    assert "module accelerator(" in output.read_text()


def test_it_is_a_board_s_design() -> None:
    design = Design("ulx3s-85f", "toy_integer(accumulator_bits=20)", 2, 2, 60e6)
    assert named(design.arithmetic) == ToyInteger(accumulator_bits=20)
    assert "accumulator_bits=20" in str(design.accelerator.identity.arithmetic)
    assert plan(design).files["core.v"]


@pytest.mark.fpga
def test_it_is_built_for_a_board(tmp_path: Path) -> None:
    board = {"board": "icebreaker", "clock_hz": 18e6, "baud": BOARDS["icebreaker"].baud}
    design = Design(**board, arithmetic="toy_integer", rows=1, columns=1, depth=64, update=False)
    bitstream, report = build(design, cache=tmp_path)
    assert len(bitstream) > 30_000
    assert not report.missed
