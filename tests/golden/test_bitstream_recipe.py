"""Forward GEMMs by bit streams: operands at full scale, and the digits learned."""

from __future__ import annotations

import numpy as np
import pytest

from quaver.golden import data
from quaver.golden.arithmetic import Bitstream
from quaver.golden.bitstream_noise import NoiseEngine
from quaver.golden.engine import GoldenEngine
from quaver.golden.formats import SignMagnitudeFormat
from quaver.golden.nn import models, recipes
from quaver.golden.nn.quantisers import Clip, DoReFaWeights, FullScale
from quaver.golden.nn.recipe import Precision
from quaver.golden.nn.run import Call
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Epoch, Trainer


def test_full_scale() -> None:
    values = np.array([[-3.0, 0.0], [1.5, 0.01]], np.float32)
    quantised = FullScale(8).quantise(values, 0.0)
    assert quantised.format.integers(quantised.codes).tolist() == [[-127, 0], [64, 0]]
    assert quantised.values[0].tolist() == [-3.0, 0.0]
    np.testing.assert_allclose(quantised.values, values, atol=3 / 127 / 2)
    assert not FullScale(8).quantise(np.zeros(3, np.float32), 0.0).values.any()
    for bad in (np.nan, np.inf):
        with pytest.raises(
            ValueError, match="values hold NaN or infinity, which at full scale, 8 bits has no"
        ):
            FullScale(8).quantise(np.array([bad]), 0.0)
    with pytest.raises(ValueError, match="bits is 14, but fractions for bit streams have 2 … 13"):
        FullScale(14)


def test_full_scale_is_for_bit_streams_alone() -> None:
    with pytest.raises(
        ValueError, match="inputs are at full scale, which is for bit streams, but the forward"
    ):
        Precision(inputs=FullScale(8), weights=DoReFaWeights(4))
    with pytest.raises(ValueError, match=r"weights are quantised, but the forward GEMM is Bitstream\("):
        Precision(Bitstream(), inputs=FullScale(8), weights=DoReFaWeights(4))
    with pytest.raises(ValueError, match="inputs are cast to sm9, but the forward GEMM takes them as sm8"):
        Precision(Bitstream(), inputs=FullScale(9))
    with pytest.raises(ValueError, match="inputs are quantised, but"):
        Precision(Bitstream(), inputs=Clip(4))


def trainer(engine: GoldenEngine, calls: list[Call], recipe: str = "bitstream-64") -> Trainer:
    digits = data.load("digits")
    network = models.build("mlp", digits.shape, digits.classes, seed=1)
    return Trainer(
        network, digits, recipes.recipe(recipe), Settings(epochs=1), engine=engine, trace=calls.append
    )


def test_the_digits_are_learned() -> None:
    """By the model of the streams in an epoch: 0.93 in float32."""
    last = [event for event in trainer(NoiseEngine(), []).steps() if isinstance(event, Epoch)][-1]
    assert last.test_accuracy > 0.8


def test_training_steps_by_the_very_bits() -> None:
    """The forward GEMMs alone are traced, and all of them are streams."""
    calls: list[Call] = []
    run = trainer(GoldenEngine(), calls)
    losses = [run.train_step().loss for _ in range(8)]
    assert losses[-1] < losses[0]
    assert {(str(call.role), call.rule) for call in calls} == {("forward", Bitstream(length=64))}


def test_a_convolution_s_streams_are_scaled_back() -> None:
    """The noise of long streams is small: a forward pass is near float32's."""
    digits = data.load("digits")
    losses = []
    for name in ("fp32", "bitstream-4096"):
        network = models.build("cnn", digits.shape, digits.classes, seed=1)
        trainer = Trainer(
            network, digits, recipes.recipe(name), Settings(epochs=1, batch=8), engine=NoiseEngine()
        )
        losses.append(trainer.train_step().loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.2)
    assert losses[1] != losses[0]


def test_the_family() -> None:
    for k in range(4, 13):
        recipe = recipes.recipe(f"bitstream-{1 << k}")
        assert recipe.hidden.forward == Bitstream(length=1 << k)
        assert recipe.hidden.forward.a == SignMagnitudeFormat(8)


def test_all_three_gemms() -> None:
    """Errors at full scale too: the very bits in some steps, the law of the noise in an epoch."""
    calls: list[Call] = []
    run = trainer(GoldenEngine(), calls, "bitstream-64-everywhere")
    losses = [run.train_step().loss for _ in range(8)]
    assert losses[-1] < losses[0]
    assert {str(call.role) for call in calls} == {"forward", "backward", "gradient"}
    assert all(call.rule == Bitstream(length=64) for call in calls)
    run = trainer(NoiseEngine(), [], "bitstream-256-everywhere")
    last = [event for event in run.steps() if isinstance(event, Epoch)][-1]
    assert last.test_accuracy > 0.8


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_backward_and_gradient_are_scaled_back(model: str) -> None:
    """Gradients by long streams without much noise are near those of float32."""
    digits, gradients = data.load("digits"), []
    for name in ("fp32", "bitstream-1024-everywhere"):
        network = models.build(model, digits.shape, digits.classes, seed=1)
        settings = Settings(epochs=1, batch=8)
        run = Trainer(network, digits, recipes.recipe(name), settings, engine=NoiseEngine())
        run.train_step()
        gradients.append([p.gradient.ravel() for p in network.parameters() if p.gradient.ndim > 1])
    for exact, noisy in zip(*gradients, strict=True):
        assert np.corrcoef(exact, noisy)[0, 1] > 0.8
        assert exact.std() == pytest.approx(noisy.std(), rel=0.4)


def test_errors_at_full_scale_are_for_bit_streams_alone() -> None:
    with pytest.raises(ValueError, match="errors are at full scale, which is for bit streams, but the back"):
        Precision(Bitstream(), errors=FullScale(8))
    Precision(gradient=Bitstream(), errors=FullScale(8))
