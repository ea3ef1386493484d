"""PyTorch and the golden model's own loop, from the same weights and batches: the same bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import quaver
import quaver.torch
from quaver.golden.formats import FP16, FP32, Format
from quaver.golden.nn import models, recipes
from quaver.golden.nn.models import Network
from quaver.golden.nn.quantisers import Clip
from quaver.golden.nn.recipe import LossScale, Precision, Recipe, UpdatePrecision
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer

STEPS = 10


def mlp() -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(inplace=True), nn.AvgPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(64, 10)),
    )


class Block(nn.Module):
    """A residual block whose sum is no module."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.new = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        main = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        if self.new:
            before = self.new // 2
            x = x[:, :, :: self.stride, :: self.stride]
            x = nn.functional.pad(x, (0, 0, 0, 0, before, self.new - before))
        main += x
        return torch.relu(main)


def resnet8() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


MODELS = {"mlp": mlp, "cnn": cnn, "resnet8": resnet8}


def to_torch(value: np.ndarray, shape: torch.Size) -> torch.Tensor:
    """Golden's (K, N) as PyTorch's (N, …)."""
    return torch.from_numpy(np.ascontiguousarray(value.T).reshape(shape))


def load(model: nn.Module, network: Network) -> None:
    with torch.no_grad():
        for parameter, theirs in zip(model.parameters(), network.all_parameters(), strict=True):
            parameter.copy_(to_torch(theirs.value, parameter.shape))


def assert_same(name: str, mine: torch.Tensor, codes: np.ndarray, fmt: Format | None) -> None:
    values = mine.detach().numpy()
    values = values if values.ndim < 2 else np.ascontiguousarray(values.reshape(len(values), -1).T)
    found = values.view(np.uint32) if fmt is None else fmt.encode(values)
    expected = codes.view(np.uint32) if fmt is None else codes
    assert np.array_equal(found, expected), f"{name}: {np.count_nonzero(found != expected)} differ"


class Twins:
    """The same training twice: in golden's trainer, and in PyTorch."""

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        optimiser: str = "sgd",
        batch: int = 8,
        between: Format | None = None,
    ) -> None:
        digits = quaver.data.load("digits")
        network = models.build(name, digits.shape, digits.classes)
        self.settings = Settings(batch=batch, optimiser=optimiser)
        self.model = MODELS[name]()
        load(self.model, network)
        self.trainer = Trainer(network, digits, recipe, self.settings)
        if between is not None:
            recipe = recipe.replace(elementwise=between)
        quaver.torch.convert(self.model, recipe)
        quaver.torch.manual_seed(self.settings.seed)
        decayed = [p.decay for p in self.trainer.parameters]
        groups: list[dict[str, Any]] = [
            {"params": [p], "weight_decay": self.settings.weight_decay * decay}
            for p, decay in zip(self.model.parameters(), decayed, strict=True)
        ]
        kind = {"sgd": quaver.torch.SGD, "adam": quaver.torch.Adam}[optimiser]
        self.optimiser = kind(groups, recipe, lr=self.settings.learning_rate)
        self.recipe = recipe

    def step(self) -> tuple[float, float]:
        """The losses of both."""
        trainer, batch = self.trainer, self.settings.batch
        epoch, index = divmod(trainer.step, trainer.steps_per_epoch)
        chosen = trainer._shuffle(epoch)[index * batch : (index + 1) * batch]
        images = torch.from_numpy(trainer.data.standardised(trainer.data.train_images[chosen]))
        labels = torch.from_numpy(trainer.data.train_labels[chosen].astype(np.int64))
        self.optimiser.zero_grad()
        loss = quaver.torch.cross_entropy(self.model(images), labels, self.recipe)
        self.optimiser.scale(loss).backward()
        self.optimiser.step()
        return trainer.train_step().loss, loss.item()

    def check(self) -> None:
        weights, momenta, _ = self.trainer._formats
        names = list(self.trainer.weights)
        for name, parameter in zip(names, self.model.parameters(), strict=True):
            assert_same(name, parameter, self.trainer.weights[name], weights)
            theirs = self.trainer.momenta[name]
            kept = self.optimiser.state.get(parameter, {})
            for i, moment in enumerate(self.optimiser.momenta):
                codes = theirs if len(self.optimiser.momenta) == 1 else theirs[i]
                mine = kept.get(moment, torch.zeros_like(parameter))
                assert_same(f"{moment} of {name}", mine, codes, momenta)


STOCHASTIC = recipes.fp8.with_gemms("fp8-stochastic", rounding="stochastic")


@pytest.mark.parametrize(
    ("name", "recipe", "optimiser"),
    [
        ("mlp", recipes.fp8, "sgd"),
        ("mlp", recipes.fp8, "adam"),
        ("mlp", recipes.fp32, "sgd"),
        ("mlp", recipes.fixed16, "sgd"),
        ("mlp", recipes.hybrid_fp8, "sgd"),
        ("mlp", recipes.dlfloat, "sgd"),
        ("mlp", STOCHASTIC, "sgd"),
        ("cnn", recipes.fp8, "sgd"),
        ("cnn", recipes.fp8, "adam"),
        ("cnn", STOCHASTIC, "sgd"),
        ("cnn", recipes.fixed16, "sgd"),
        ("resnet8", recipes.fp8, "sgd"),
        ("resnet8", recipes.fixed16, "sgd"),
        ("mlp", recipes.pact[4], "sgd"),
        ("mlp", recipes.pact[3], "adam"),
        ("mlp", recipes.pact_sawb[2], "sgd"),
        ("mlp", recipes.dorefa[2], "sgd"),
        ("mlp", recipes.pact_everywhere[5], "sgd"),
        ("mlp", recipes.bitstream_everywhere[16], "sgd"),
        ("mlp", recipes.fp8_hopper, "sgd"),
        ("cnn", recipes.fp8_hopper, "sgd"),
        pytest.param("mlp", recipes.bitstream[64], "sgd", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_ten_steps_give_the_same_bits(name: str, recipe: Recipe, optimiser: str) -> None:
    twins = Twins(name, recipe, optimiser)
    for step in range(STEPS):
        theirs, mine = twins.step()
        assert mine == theirs, f"the loss of step {step}"
    twins.check()


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("cnn", recipes.pact[4]),
        ("cnn", recipes.pact_sawb[2]),
        ("resnet8", recipes.pact[4]),
        ("resnet8", recipes.dorefa[2]),
        pytest.param("cnn", recipes.bitstream_everywhere[16], marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_ten_quantised_steps_where_means_lie_between(name: str, recipe: Recipe) -> None:
    """Golden's mean is of a float64 sum, PyTorch's of a float32 one unless the recipe names the format."""
    twins = Twins(name, recipe, between=FP32)
    for step in range(STEPS):
        theirs, mine = twins.step()
        assert mine == theirs, f"the loss of step {step}"
    twins.check()
    alphas = {name: p.item() for name, p in twins.model.named_parameters() if name.endswith("alpha")}
    assert len(alphas) == sum(name.endswith("alpha") for name in twins.trainer.weights)
    assert all(alpha != 10.0 for alpha in alphas.values())


def clipping(recipe: Recipe) -> Recipe:
    """The recipe with α so low that most of what is positive lies above it, and moves it."""

    def low(precision: Precision) -> Precision:
        clip = precision.inputs
        learns = isinstance(clip, Clip) and clip.learned
        return replace(precision, inputs=replace(clip, alpha=0.25)) if learns else precision

    last = None if recipe.last is None else low(recipe.last)
    return recipe.replace(name=f"{recipe.name}, clipping", hidden=low(recipe.hidden), last=last)


IN_HALF = {"elementwise": FP16, "update": UpdatePrecision(FP16), "loss_scale": LossScale(1000.0)}


@pytest.mark.parametrize(
    ("name", "recipe", "optimiser"),
    [
        ("mlp", recipes.pact[4], "sgd"),
        ("mlp", recipes.pact_everywhere[2], "sgd"),
        ("mlp", recipes.pact[4].replace(name="pact-4 in FP16", **IN_HALF), "sgd"),
        ("cnn", recipes.pact_sawb[3], "sgd"),
        ("resnet8", recipes.pact[2], "sgd"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_ten_steps_in_which_alphas_have_gradients(name: str, recipe: Recipe, optimiser: str) -> None:
    """From 10, which no value exceeds in so few steps, only L2 moves them."""
    between = FP32 if recipe.elementwise is None and name != "mlp" else None
    twins = Twins(name, clipping(recipe), optimiser, between=between)
    for step in range(STEPS):
        theirs, mine = twins.step()
        assert mine == theirs, f"the loss of step {step}"
    twins.check()
    alphas = [p.item() for name, p in twins.model.named_parameters() if name.endswith("alpha")]
    assert alphas
    assert all(abs(alpha - 0.25) > 1e-3 for alpha in alphas)  # L2 alone: 1e-5


def test_one_bit_of_an_alpha_is_seen() -> None:
    twins = Twins("mlp", recipes.pact[4])
    twins.step()
    twins.check()
    twins.trainer.weights["linear2.alpha"].view(np.uint32)[0] ^= 1
    with pytest.raises(AssertionError, match=r"linear2\.alpha: 1 differ"):
        twins.check()


@pytest.mark.parametrize("what", ["weights", "momenta"])
def test_one_bit_is_seen(what: str) -> None:
    twins = Twins("mlp", recipes.fp8)
    twins.step()
    twins.check()
    codes = getattr(twins.trainer, what)["linear2.weight"]
    codes[5, 3] ^= 1
    with pytest.raises(AssertionError, match=r"linear2\.weight: 1 differ"):
        twins.check()


def test_another_seed_gives_other_bits() -> None:
    twins = Twins("mlp", recipes.fp8)
    quaver.torch.manual_seed(2)
    twins.step()
    with pytest.raises(AssertionError, match="differ"):
        twins.check()


def test_a_step_that_overflows_is_skipped_in_both() -> None:
    """The errors overflow in a backward GEMM, and the next cast would saturate them out of sight."""
    recipe = recipes.fp8.replace(name="hot", loss_scale=LossScale(2.0**40, grow_every=3))
    twins = Twins("mlp", recipe)
    skipped = 0
    for _ in range(40):
        theirs, mine = twins.step()
        assert mine == theirs
        assert twins.optimiser.loss_scale == twins.trainer.loss_scale
        assert twins.optimiser.good_steps == twins.trainer.good_steps
        skipped = twins.optimiser.skipped
    assert 5 < skipped < 40
    twins.check()
