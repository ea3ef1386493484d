"""Losses and gradients of whole networks against PyTorch's autodiff, in float64 on the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quaver.golden.engine import GoldenEngine
from quaver.golden.nn import models, recipes
from quaver.golden.nn.layers import (
    AveragePool2d,
    BatchNorm2d,
    Chain,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Shortcut,
)
from quaver.golden.nn.loss import softmax_cross_entropy
from quaver.golden.nn.run import Run

torch = pytest.importorskip("torch", reason="PyTorch, an optional extra, is not installed")


class WideRun(Run):
    """The float32 recipe computed in float64, so that only the formulas are compared."""

    def round(self, values: Any) -> Any:
        return np.asarray(values, np.float64)


def twin(layer: Layer, leaves: dict[str, Any]) -> Any:
    """The same layer as a function of PyTorch tensors; its parameters go into `leaves`."""
    nn = torch.nn.functional
    p = {}
    for field, parameter in layer.parameters().items():
        p[field] = torch.tensor(parameter.value, dtype=torch.float64, requires_grad=True)
        leaves[parameter.name] = p[field]
    if isinstance(layer, Chain):
        return _chain([twin(inner, leaves) for inner in layer.layers])
    if isinstance(layer, Residual):
        main = twin(layer.main, leaves)
        shortcut = twin(layer.shortcut, leaves) if layer.shortcut else lambda x: x
        return lambda x: main(x) + shortcut(x)
    if isinstance(layer, Linear):
        return lambda x: x @ p["weight"] + p["bias"]
    if isinstance(layer, Conv2d):

        def convolved(x: Any) -> Any:
            # Ours is (C·size², O), PyTorch's (O, C, size, size).
            weight = p["weight"].T.reshape(layer.outputs, layer.inputs, layer.size, layer.size)
            return nn.conv2d(x, weight, p.get("bias"), layer.stride, layer.padding)

        return convolved
    if isinstance(layer, BatchNorm2d):
        return lambda x: nn.batch_norm(x, None, None, p["scale"], p["shift"], True, 0, layer.EPSILON)
    if isinstance(layer, Shortcut):
        after = layer.outputs - layer.inputs - layer.before
        return lambda x: nn.pad(x[:, :, :: layer.stride, :: layer.stride], (0, 0, 0, 0, layer.before, after))
    if isinstance(layer, MaxPool2d):
        return lambda x: nn.max_pool2d(x, layer.size)
    if isinstance(layer, AveragePool2d):
        return lambda x: nn.avg_pool2d(x, layer.size or x.shape[2:])
    plain = {ReLU: torch.relu, Flatten: lambda x: x.flatten(1)}
    return plain[type(layer)]


def _chain(parts: list[Any]) -> Any:
    def run(x: Any) -> Any:
        for part in parts:
            x = part(x)
        return x

    return run


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("mlp", (1, 8, 8)),
        ("cnn", (1, 28, 28)),
        ("cnn", (3, 17, 18)),
        ("resnet8", (3, 32, 32)),
        ("resnet20", (3, 16, 16)),
    ],
)
def test_loss_and_gradients_of_whole_networks(model: str, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(7)
    network = models.build(model, shape, 10, seed=2)
    for parameter in network.all_parameters():
        noise = 0.1 * rng.standard_normal(parameter.value.shape)  # biases and shifts are not 0 either
        parameter.value = parameter.value.astype(np.float64) + noise
    images, labels = rng.standard_normal((6, *shape)), rng.integers(0, 10, 6)
    run = WideRun(recipes.fp32, GoldenEngine())
    loss, error = softmax_cross_entropy(network.forward(images, run), labels, 1.0, run)
    network.backward(error, run)

    leaves: dict[str, Any] = {}
    theirs = torch.nn.functional.cross_entropy(
        twin(network, leaves)(torch.tensor(images)), torch.tensor(labels)
    )
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), rel=1e-12)
    for parameter in network.all_parameters():
        gradient = leaves[parameter.name].grad.numpy()
        scale = np.abs(gradient).max()
        assert parameter.gradient.shape == gradient.shape
        assert np.abs(parameter.gradient - gradient).max() <= 1e-9 * scale, parameter.name
