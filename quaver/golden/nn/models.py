"""Networks, and the models that `build` knows by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from math import prod

import numpy as np

from quaver.golden.float_environment import standard_floats
from quaver.golden.nn.layers import (
    AveragePool2d,
    BatchNorm2d,
    Chain,
    Conv2d,
    Flatten,
    GemmLayer,
    Layer,
    Linear,
    MaxPool2d,
    Parameter,
    ReLU,
    Residual,
    Shortcut,
)

Shape = tuple[int, int, int]
"""(channels, height, width) of one image."""


class Network(Chain):
    """Layers in order. Each with parameters gets a name of its kind and a number: conv1, conv2, norm1, ….

    The first and the last layer with a GEMM are marked as such, because recipes may treat them differently.

    Raises
    ------
    ValueError
        One layer object stands in two places, or the first or last GEMM layer lies inside a block.
    """

    def __init__(self, name: str, *layers: Layer) -> None:
        super().__init__(*layers)
        self.name = name
        numbers: Counter[str] = Counter()
        found = list(self.walk())
        twice = [layer for layer, times in Counter(found).items() if times > 1]
        if twice:
            raise ValueError(
                f"{name} has one {type(twice[0]).__name__} in two places, but a layer keeps what its "
                f"backward pass needs of one forward pass; make a layer for each place"
            )
        for layer in found:
            if layer.kind:
                numbers[layer.kind] += 1
                layer.name = f"{layer.kind}{numbers[layer.kind]}"
                for field, parameter in layer.parameters().items():
                    parameter.name = f"{layer.name}.{field}"
        gemms = [layer for layer in self.walk() if isinstance(layer, GemmLayer)]
        if not gemms or gemms[0] not in self.layers or gemms[-1] not in self.layers:
            raise ValueError(f"{name}: the first and the last layer with weights must not lie inside a block")
        gemms[0].first = gemms[-1].last = True

    def all_parameters(self) -> Iterator[Parameter]:
        """Every parameter, in the order of the layers.

        ValueError: two layers share one, of which each would overwrite the other's gradient.
        """
        seen: dict[int, str] = {}
        for layer in self.walk():
            for field, parameter in layer.parameters().items():
                if id(parameter) in seen:
                    raise ValueError(
                        f"{layer.name}.{field} of {self.name} is {seen[id(parameter)]} as well, but a "
                        f"gradient has one place; give each layer a parameter of its own"
                    )
                seen[id(parameter)] = f"{layer.name}.{field}"
                yield parameter


def mlp(shape: Shape, classes: int, rng: np.random.Generator, widths: tuple[int, ...] = (128, 64)) -> Network:
    """Linear layers with a ReLU between two of them; `widths` are the units of each hidden layer."""
    layers: list[Layer] = [Flatten()]
    inputs = prod(shape)
    for width in widths:
        layers += [Linear(inputs, width, rng), ReLU()]
        inputs = width
    return Network("mlp", *layers, Linear(inputs, classes, rng))


def cnn(shape: Shape, classes: int, rng: np.random.Generator) -> Network:
    """Three 5×5 convolutions of 32, 32 and 64 maps, each pooled by two, and one linear layer: after the
    CIFAR10-CNN of Wang et al. 2018 (the paper names it without its widths)."""
    channels, height, width = shape
    return Network(
        "cnn",
        *(Conv2d(channels, 32, 5, rng, padding=2, bias=True), ReLU(), MaxPool2d(2)),
        *(Conv2d(32, 32, 5, rng, padding=2, bias=True), ReLU(), AveragePool2d(2)),
        *(Conv2d(32, 64, 5, rng, padding=2, bias=True), ReLU(), AveragePool2d(2)),
        *(Flatten(), Linear(64 * (height // 8) * (width // 8), classes, rng)),
    )


def resnet(depth: int, shape: Shape, classes: int, rng: np.random.Generator) -> Network:
    """The CIFAR ResNet of `depth` = 6n + 2 layers (He et al. 2016, §4.2).

    It has n blocks each of 16, 32 and 64 maps, and shortcuts without weights.

    Raises
    ------
    ValueError
        The depth is not 6n + 2 with n of at least 1.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"a ResNet of {depth} layers, but this family has 6n + 2: 8, 14, 20, 26, 32, …")
    layers: list[Layer] = [Conv2d(shape[0], 16, 3, rng, padding=1), BatchNorm2d(16), ReLU()]
    inputs = 16
    for outputs in (16, 32, 64):
        for block in range((depth - 2) // 6):
            stride = 2 if block == 0 and outputs > 16 else 1
            main = Chain(
                *(Conv2d(inputs, outputs, 3, rng, stride=stride, padding=1), BatchNorm2d(outputs), ReLU()),
                *(Conv2d(outputs, outputs, 3, rng, padding=1), BatchNorm2d(outputs)),
            )
            layers += [Residual(main, Shortcut(inputs, outputs, stride) if stride > 1 else None), ReLU()]
            inputs = outputs
    return Network(f"resnet{depth}", *layers, AveragePool2d(), Flatten(), Linear(64, classes, rng))


MODELS: dict[str, Callable[[Shape, int, np.random.Generator], Network]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet8": lambda *shapes: resnet(8, *shapes),
    "resnet20": lambda *shapes: resnet(20, *shapes),
    "resnet32": lambda *shapes: resnet(32, *shapes),
}


@standard_floats
def build(name: str, shape: Shape, classes: int, *, seed: int = 1) -> Network:
    """The model `name`, one of `MODELS`, for images of `shape` (channels, height, width).

    Its weights depend on `seed` alone, so that they are the same for every recipe.

    Raises
    ------
    ValueError
        There is no such model.
    """
    if name not in MODELS:
        raise ValueError(f"the model is {name!r}, but there are {', '.join(MODELS)}")
    return MODELS[name](shape, classes, np.random.default_rng([seed, 0]))
