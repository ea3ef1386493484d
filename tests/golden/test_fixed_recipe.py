"""The recipe fixed16: trains the digits, falls back to 20 bits, and resumes on either side of that."""

import numpy as np
import pytest

from quaver.golden import data
from quaver.golden.arithmetic.fixed_point import FixedPoint
from quaver.golden.formats import FixedFormat
from quaver.golden.nn import models, recipes
from quaver.golden.nn.recipe import Precision, Recipe, Role
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Epoch, Trainer


def trainer(recipe=recipes.fixed16, model="mlp", **settings):
    digits = data.load("digits")
    network = models.build(model, digits.shape, digits.classes, seed=1)
    return Trainer(network, digits, recipe, Settings(**settings))


def test_a_weight_decay_that_a_later_epoch_would_lose_is_refused_before_the_first():
    trainer(epochs=3, decay_at=(1,))
    with pytest.raises(ValueError, match="rate·decay is 5e-08, which becomes 0"):
        trainer(epochs=3, decay_at=(1, 2))
    trainer(epochs=3, decay_at=(1, 2), weight_decay=0.0)
    trainer(epochs=3, decay_at=(1, 3))  # which never comes


def test_fixed16_trains_the_digits_like_fp32():
    accuracy = {}
    for recipe in (recipes.fp32, recipes.fixed16):
        run = trainer(recipe, epochs=4)
        accuracy[recipe.name] = [e.test_accuracy for e in run.steps() if isinstance(e, Epoch)][-1]
    assert accuracy["fixed16"] > accuracy["fp32"] - 0.01
    assert run.weights["linear1.weight"].dtype == np.uint16


def test_few_fraction_bits_need_stochastic_rounding():
    accuracy = {}
    for rounding in ("nearest", "stochastic"):
        run = trainer(
            recipes.fixed(rounding, 16, 5, rounding=rounding), epochs=3, momentum=0.0, learning_rate=0.1
        )
        accuracy[rounding] = [e.test_accuracy for e in run.steps() if isinstance(e, Epoch)][-1]
    assert accuracy["stochastic"] > 0.9
    assert accuracy["nearest"] < accuracy["stochastic"] - 0.1


def test_convolutions_whatever_side_the_weights_are_on():
    run = trainer(recipes.fixed("fixed", 16, 12, activation_bits=9), "cnn", batch=16)
    losses = [run.train_step().loss for _ in range(12)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_the_last_epochs_have_more_bits():
    settings = dict(epochs=2, batch=256, later_at=1)
    run = trainer(**settings)
    states, events = {}, []
    for event in run.steps():
        events.append(event)
        states[run.step, isinstance(event, Epoch)] = run.state()
    fine = recipes.fixed20.update.formats[0]
    weights = fine.integers(run.weights["linear1.weight"])
    assert run.weights["linear1.weight"].dtype == np.uint32
    assert (weights % 16 != 0).mean() > 0.5  # bits that 16 do not have
    boundary = run.steps_per_epoch
    coarse = states[boundary, False]["weights/linear1.weight"]
    assert not (fine.integers(coarse) % 16).any()
    # Resumed before, at and after the change, it is the same run.
    for state in (states[boundary - 1, False], states[boundary, True], states[boundary + 1, False]):
        again = trainer(**settings)
        again.restore(state)
        rest = list(again.steps())
        assert rest == events[-len(rest) :]
        assert np.array_equal(again.weights["linear1.weight"], run.weights["linear1.weight"])


def test_refused():
    with pytest.raises(ValueError, match="later_at is 1, but the recipe fp8 has no later one"):
        trainer(recipes.fp8, later_at=1)
    with pytest.raises(ValueError, match="later_at is 0, but it is a number of epochs, 1 or more"):
        Settings(later_at=0)
    gemm = FixedPoint(FixedFormat(6, 10), FixedFormat(2, 14), FixedFormat(6, 10))
    message = r"inputs are cast to q2\.14, but the forward GEMM takes them as q6\.10, which does not hold"
    with pytest.raises(ValueError, match=message):
        Precision(forward=gemm, inputs=gemm.b, weights=gemm.a)  # the wrong way round
    assert Precision(forward=gemm).operand(Role.FORWARD, "weights") == gemm.b
    run, other = trainer(later_at=1), trainer(recipes.fp8)
    state = other.state() | {"counters": np.array([10**6, 0, 0, 0])}
    with pytest.raises(ValueError, match=r"the state holds uint16 .* but here it is uint32"):
        run.restore(state)
    assert run.run.recipe is recipes.fixed16
    assert run.weights["linear1.weight"].dtype == np.uint16


def test_json():
    for recipe in (recipes.fixed16, recipes.fixed16_nearest):
        assert Recipe.from_json(recipe.to_json()) == recipe
        assert "later fixed20" in str(recipe) or recipe.later is None
