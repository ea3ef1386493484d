"""Inference with batch normalisation folded: close to the layers' own, integers between layers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from quaver.golden import data
from quaver.golden.arithmetic.integer import Integer
from quaver.golden.contracts import Codes
from quaver.golden.engine import Engine, GoldenEngine, requantised
from quaver.golden.nn import models, recipes
from quaver.golden.nn.compare import compare
from quaver.golden.nn.folding import FoldedNetwork
from quaver.golden.nn.layers import BatchNorm2d, Chain, Conv2d, Flatten, Linear, MaxPool2d, ReLU
from quaver.golden.nn.models import Network
from quaver.golden.nn.quantisers import DoReFaWeights
from quaver.golden.nn.recipe import Precision, Recipe
from quaver.golden.nn.run import Call, Run, Trace
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
from quaver.golden.requantisation import Requantisation
from quaver.sim.engine import SimulatedEngine


def plain(rng: np.random.Generator) -> Network:
    """Convolutions with normalisation and maxima between: integers from the first to the last."""
    return Network(
        "plain",
        *(Conv2d(1, 8, 3, rng, padding=1), BatchNorm2d(8), ReLU()),
        *(Conv2d(8, 8, 3, rng, padding=1), BatchNorm2d(8), ReLU(), MaxPool2d(2)),
        *(Conv2d(8, 16, 3, rng, padding=1, bias=True), ReLU(), MaxPool2d(2), Flatten()),
        *(Linear(64, 32, rng), ReLU(), Linear(32, 10, rng)),
    )


@cache
def trained(model: str, recipe: Recipe) -> Trainer:
    digits = data.load("digits")
    network = (
        plain(np.random.default_rng(1))
        if model == "plain"
        else models.build(model, digits.shape, digits.classes)
    )
    trainer = Trainer(network, digits, recipe, Settings(epochs=1, batch=32))
    list(trainer.steps())
    return trainer


def images(trainer: Trainer, count: int = 360) -> np.ndarray:
    return trainer.data.standardised(trainer.data.test_images[:count])


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("plain", recipes.fp32),
        ("plain", recipes.pact_everywhere[4]),
        ("mlp", recipes.pact[2]),
        ("resnet8", recipes.pact[4]),
    ],
    ids=lambda of: getattr(of, "name", of),
)
def test_the_same_classes(model: str, recipe: Recipe) -> None:
    trainer = trained(model, recipe)
    x = images(trainer)
    run = Run(recipe, GoldenEngine())
    run.training = False
    wanted = trainer.network.forward(x, run)
    folded = FoldedNetwork(trainer.network, Run(recipe, GoldenEngine()))
    got = folded.forward(x)
    assert np.mean(got.argmax(1) == wanted.argmax(1)) >= 0.99
    # What lies next to a tie may be a step off: the mean of all is not.
    assert np.abs(got - wanted).mean() < 0.02 * np.abs(wanted).mean()
    if recipe is recipes.fp32:
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.pact[2].replace(name="reals", hidden=replace(recipes.pact[2].hidden, forward=None)),
        recipes.pact[2].replace(name="weights", hidden=Precision(weights=DoReFaWeights(2, scaled=True))),
        recipes.bitstream[16],
    ],
    ids=lambda recipe: recipe.name,
)
def test_what_is_quantised_but_multiplied_by_no_integers(recipe: Recipe) -> None:
    """Where there is nothing to fold, the folded network is the network."""
    trainer = trained("mlp", recipe)
    test = trainer.data.test_images, trainer.data.test_labels
    assert trainer.evaluate(*test, folded=True) == pytest.approx(trainer.evaluate(*test), rel=1e-6)


def test_integers_from_layer_to_layer() -> None:
    """Each code differs from the layers' own by a step at most, and few of them do."""
    recipe = recipes.pact_everywhere[4]
    trainer = trained("plain", recipe)
    x = images(trainer, 100)
    folded = FoldedNetwork(trainer.network, Run(recipe, GoldenEngine()))
    whole = [name for name, layer in folded.layers.items() if layer.requantisation is not None]
    assert whole == ["conv1", "conv2", "conv3", "linear1"]
    assert folded.layers["linear2"].integer
    calls: dict[str, dict[str, np.ndarray]] = {"own": {}, "folded": {}}
    own = Run(recipe, GoldenEngine(), trace=lambda call: calls["own"].update({call.layer: call.operands[0]}))
    own.training = False
    trainer.network.forward(x, own)

    def trace(call: Call) -> None:
        calls["folded"][call.layer] = call.operands[0]

    FoldedNetwork(trainer.network, Run(recipe, GoldenEngine(), trace=trace)).forward(x)
    assert np.array_equal(calls["own"]["conv1"], calls["folded"]["conv1"])
    for name in ("conv2", "conv3", "linear1", "linear2"):
        one, other = (calls[which][name].astype(int) for which in ("own", "folded"))
        assert np.abs(one - other).max() <= 2
        assert np.mean(one != other) < 0.01, name


def test_the_convolution_s_normalisation_is_in_its_factors() -> None:
    trainer = trained("plain", recipes.fp32)
    folded = FoldedNetwork(trainer.network, Run(recipes.fp32, GoldenEngine()))
    conv, norm = trainer.network.layers[:2]
    assert isinstance(conv, Conv2d)
    assert isinstance(norm, BatchNorm2d)
    run = Run(recipes.fp32, GoldenEngine())
    run.training = False
    x = images(trainer, 20)
    wanted = norm.forward(conv.forward(x, run), run)
    one = folded.layers["conv1"]
    sums = folded.sums(one, x)
    got = sums * one.factors[:, None, None] + one.offsets[:, None, None]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    assert one.behind == 1
    assert folded.layers["conv3"].behind == 0


def test_no_normalisation_is_applied_twice() -> None:
    """Chains in chains: the residual's convolutions have theirs each."""
    trainer = trained("resnet8", recipes.pact[4])
    folded = FoldedNetwork(trainer.network, Run(recipes.pact[4], GoldenEngine()))
    blocks = [layer for layer in trainer.network.walk() if isinstance(layer, Chain)][1:]
    assert len(blocks) == 3
    assert sum(layer.behind for layer in folded.layers.values()) == 7
    # The first convolution of a block feeds the second one in integers; the second one's sums are added.
    inside = [name for name, layer in folded.layers.items() if layer.requantisation is not None]
    assert len(inside) == 3


@pytest.mark.slow
def test_the_hardware_s_sums_are_the_same() -> None:
    """Inference on the simulated accelerator: the same logits to the bit."""
    recipe = recipes.pact[4]
    trainer = trained("resnet8", recipe)
    x = images(trainer, 2)
    engines = GoldenEngine(), SimulatedEngine(2, 3)
    one, other = (FoldedNetwork(trainer.network, Run(recipe, engine)).forward(x) for engine in engines)
    assert np.array_equal(one, other)


def three_layers() -> Network:
    rng = np.random.default_rng(1)
    between = Linear(64, 12, rng), ReLU(), Linear(12, 8, rng), ReLU()
    return Network("three", Flatten(), *between, Linear(8, 10, rng))


def test_the_next_layer_s_codes_leave_the_hardware() -> None:
    """Layer by layer the codes that golden makes of its sums; and one bit of one code is seen."""
    recipe = recipes.pact[4].replace(name="pact-4 at every layer", first=None, last=None)
    digits = data.load("digits")
    settings = Settings(epochs=1, batch=32)
    trained = Trainer(three_layers(), digits, recipe, settings)
    list(trained.steps())

    def make(engine: Engine, trace: Trace) -> Trainer:
        again = Trainer(three_layers(), digits, recipe, settings, engine=engine, trace=trace)
        again.restore(trained.state())
        return again

    engine = SimulatedEngine(2, 3)
    found = compare(make, GoldenEngine(), engine, steps=0, images=30, folded=True)
    assert found.equal, found.first
    roles = [(tally.layer, tally.role) for tally in found.tallies]
    assert roles == [("linear1", "to codes"), ("linear2", "to codes"), ("linear3", "forward")]
    assert [codes for _, codes in engine._drivers] == [4, 0]

    class Slip(GoldenEngine):
        def requantised(
            self, arithmetic: Integer, requantisation: Requantisation, a: Codes, b: Codes
        ) -> Codes:
            codes = requantised(GoldenEngine(), arithmetic, requantisation, a, b)
            codes[5, 3] ^= codes.shape[1] == 8
            return codes

    found = compare(make, GoldenEngine(), Slip(), steps=0, images=30, folded=True)
    assert found.first is not None
    assert (found.first.layer, found.first.role, found.first.index) == ("linear2", "to codes", (5, 3))
