"""Bit streams in the same array, accelerator and driver: a network classified and trained with identical
codes, boards, and rates that know how long a product takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quaver.fpga.build import build
from quaver.fpga.design import Design
from quaver.fpga.rates import rates
from quaver.golden import data
from quaver.golden.arithmetic import Bitstream
from quaver.golden.engine import Engine, GoldenEngine
from quaver.golden.nn import models, recipes
from quaver.golden.nn.run import Call
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
from quaver.sim.engine import SimulatedEngine

SMALL: dict[str, Any] = {"board": "icebreaker", "rows": 2, "columns": 2, "clock_hz": 24e6, "baud": 1_000_000}


def calls(engine: Engine) -> tuple[list[Call], list[float]]:
    """Of 20 digits classified and two steps of training, all GEMMs by streams of 16."""
    digits, found = data.load("digits"), list[Call]()
    network = models.build("mlp", digits.shape, digits.classes, seed=1)
    recipe, settings = recipes.recipe("bitstream-16-everywhere"), Settings(epochs=1, batch=8)
    trainer = Trainer(network, digits, recipe, settings, engine=engine, trace=found.append)
    losses = [trainer.evaluate(digits.test_images[:20], digits.test_labels[:20])[0]]
    return found, losses + [trainer.train_step().loss for _ in range(2)]


def test_a_network_is_classified_and_trained_with_identical_codes() -> None:
    (golden, losses), (simulated, others) = calls(GoldenEngine()), calls(SimulatedEngine(8, 8))
    assert losses == others
    assert len(golden) == len(simulated) == 3 + 2 * (3 + 3 + 2)
    for one, other in zip(golden, simulated, strict=True):
        assert one.rule == Bitstream(length=16)
        np.testing.assert_array_equal(one.results[0], other.results[0])


def test_rates_follow_the_cycles_of_a_product() -> None:
    designs = [Design(**SMALL, arithmetic=f"bitstream(length={n})") for n in (16, 256)]
    clock = float(designs[0].pll.clock_hz)
    assert [design.accelerator.geometry.product_cycles for design in designs] == [16, 256]
    found = [rates(design) for design in designs]
    assert [one.peak for one in found] == [4 * clock / 16, 4 * clock / 256]
    assert all(0.9 * one.peak < one.sustained <= one.peak for one in found)
    assert designs[0].recipes() == ["bitstream-16", "bitstream-16-everywhere"]


@pytest.mark.fpga
def test_it_is_built_for_a_board(tmp_path: Any) -> None:
    design = Design(**SMALL, arithmetic="bitstream(length=16, accumulator_bits=16)", depth=64, update=False)
    bitstream, report = build(design, cache=tmp_path)
    assert len(bitstream) > 30_000
    assert not report.missed
