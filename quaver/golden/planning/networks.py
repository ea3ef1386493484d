"""The GEMMs of well-known networks: architectures as code, from which the layers' shapes follow.

A layer is kept as what its three GEMMs need, in a training step with B images and H'·W' output positions:

========  =====================  =================================
GEMM      computes               length of its dot products
========  =====================  =================================
forward   the output             C_in / groups · taps
backward  the input's error      C_out / groups · taps
gradient  the weight's gradient  B · H'·W'
========  =====================  =================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from quaver.golden.validation import set_integers


@dataclass(frozen=True)
class LayerShape:
    """One layer with weights: a convolution, or a linear layer (one tap, one position).

    Parameters
    ----------
    name
        The layer's name, unique in its network.
    in_channels, out_channels, groups
        Channels C_in and C_out; each of the `groups` connects C_in / groups with C_out / groups of them.
    taps
        Kernel height × width.
    positions
        H'·W', how often the kernel is applied to one image.
    nonzero_ratios
        The share of products that are not zero in the forward, backward and gradient GEMM; None: not known.
    """

    name: str
    in_channels: int
    out_channels: int
    taps: int = 1
    positions: int = 1
    groups: int = 1
    nonzero_ratios: tuple[float | None, float | None, float | None] = (None, None, None)

    def __post_init__(self) -> None:
        sizes = ("in_channels", "out_channels", "taps", "positions", "groups")
        set_integers(self, *sizes)
        for field in sizes:
            if getattr(self, field) < 1:
                raise ValueError(f"{self.name}: {field} is {getattr(self, field)}, but it must be at least 1")
        for field in ("in_channels", "out_channels"):
            if getattr(self, field) % self.groups:
                raise ValueError(
                    f"{self.name}: {field} is {getattr(self, field)}, not a multiple of {self.groups} groups"
                )

    @property
    def forward(self) -> int:
        """Length of the forward GEMM's dot products."""
        return self.in_channels // self.groups * self.taps

    @property
    def backward(self) -> int:
        """Length of the backward GEMM's dot products."""
        return self.out_channels // self.groups * self.taps

    def gradient(self, batch: int) -> int:
        """Length of the gradient GEMM's dot products with `batch` images a step."""
        return batch * self.positions

    @property
    def weights(self) -> int:
        """Weights, without biases."""
        return self.forward * self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the forward GEMM for one image."""
        return self.weights * self.positions


@dataclass(frozen=True)
class NetworkShape:
    """A network's layers in order, and the images of one training step.

    Parameters
    ----------
    name
        What tables call it.
    layers
        Its layers in the order of the forward pass, at least one; their names differ.
    batch
        Images in a training step.
    remarks
        Sentences for the reader of a plan about what a file describes and these layers leave out.
    learns_before
        Whether something that is no GEMM, such as an embedding, learns before the first layer. Where nothing
        does, the first layer has no backward GEMM.

    Raises
    ------
    ValueError
        There are no layers, two have one name, or the batch is below 1.
    """

    name: str
    layers: tuple[LayerShape, ...]
    batch: int
    remarks: tuple[str, ...] = ()
    learns_before: bool = False

    def __post_init__(self) -> None:
        set_integers(self, "batch")
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}, but a training step takes at least 1 image")
        if not self.layers:
            raise ValueError(f"{self.name} has no layers, but a plan is made of at least 1")
        for name, count in Counter(layer.name for layer in self.layers).items():
            if count > 1:
                raise ValueError(f"{self.name} has {count} layers named {name}; rename them")


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Positions of a kernel along an axis of `size` pixels."""
    return (size + 2 * padding - kernel) // stride + 1


class _Images:
    """Follows one image through a network: each call adds a layer and keeps channels and size up to date."""

    def __init__(self, channels: int, size: int) -> None:
        self.channels, self.size = channels, size
        self.layers: list[LayerShape] = []
        self.inputs: list[int] = []  # values that enter each layer for one image

    def conv(self, name: str, channels: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        self.side(name, self.channels, self.size, channels, kernel, stride, padding)
        self.channels, self.size = channels, output_size(self.size, kernel, stride, padding)

    def side(
        self, name: str, channels: int, size: int, outputs: int, kernel: int, stride: int, padding: int = 0
    ) -> None:
        """A convolution beside the main path: `channels` and `size` are what enters it."""
        positions = output_size(size, kernel, stride, padding) ** 2
        self.layers.append(LayerShape(name, channels, outputs, kernel**2, positions))
        self.inputs.append(channels * size**2)

    def pool(self, kernel: int, stride: int, padding: int = 0) -> None:
        self.size = output_size(self.size, kernel, stride, padding)

    def linear(self, name: str, outputs: int) -> None:
        self.layers.append(LayerShape(name, self.channels * self.size**2, outputs))
        self.inputs.append(self.channels * self.size**2)
        self.channels, self.size = outputs, 1

    def resnet50(self) -> None:
        """All of it."""
        self.conv("conv1", 64, kernel=7, stride=2, padding=3)
        self.pool(kernel=3, stride=2, padding=1)
        for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                channels, size = self.channels, self.size
                name = f"layer{stage}.{block}"
                self.conv(f"{name}.conv1", width, kernel=1, stride=stride)
                self.conv(f"{name}.conv2", width, kernel=3, padding=1)
                self.conv(f"{name}.conv3", 4 * width, kernel=1)
                if block == 0:
                    self.side(f"{name}.downsample", channels, size, 4 * width, kernel=1, stride=stride)
        self.pool(kernel=7, stride=7)
        self.linear("fc", 1000)


def _resnet_stages(image: _Images, widths: tuple[int, ...], blocks: int, *, projection: bool) -> None:
    """Stages of basic blocks (two 3×3 convolutions); all but the first halve the size.

    `projection`: a 1×1 convolution on the shortcut where the width changes, else zeros are padded.
    """
    for stage, width in enumerate(widths, start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            channels, size = image.channels, image.size
            name = f"layer{stage}.{block}"
            image.conv(f"{name}.conv1", width, kernel=3, stride=stride, padding=1)
            image.conv(f"{name}.conv2", width, kernel=3, padding=1)
            if projection and channels != width:
                image.side(f"{name}.downsample", channels, size, width, kernel=1, stride=stride)


def resnet32_cifar10() -> NetworkShape:
    """ResNet-32 of He et al. (arXiv 1512.03385, §4.2): 6·5 + 2 layers, shortcuts without weights.

    Layers have the names of `quaver.golden.nn`'s resnet32, which can be trained as planned.
    """
    image = _Images(channels=3, size=32)
    image.conv("conv1", 16, kernel=3, padding=1)
    _resnet_stages(image, (16, 32, 64), blocks=5, projection=False)
    image.pool(kernel=8, stride=8)
    convolutions = [replace(layer, name=f"conv{i}") for i, layer in enumerate(image.layers, start=1)]
    image.linear("linear1", 10)
    return NetworkShape("resnet32-cifar10", (*convolutions, image.layers[-1]), batch=128)


def resnet18_imagenet() -> NetworkShape:
    """ResNet-18 of He et al. (arXiv 1512.03385, table 1) on 224×224, projections where the width changes."""
    image = _Images(channels=3, size=224)
    image.conv("conv1", 64, kernel=7, stride=2, padding=3)
    image.pool(kernel=3, stride=2, padding=1)
    _resnet_stages(image, (64, 128, 256, 512), blocks=2, projection=True)
    image.pool(kernel=7, stride=7)
    image.linear("fc", 1000)
    return NetworkShape("resnet18-imagenet", tuple(image.layers), batch=256)


def resnet50_imagenet() -> NetworkShape:
    """ResNet-50 of He et al. (arXiv 1512.03385, table 1) on 224×224: bottlenecks, each stage's stride in the
    first 1×1 convolution, projections where the width changes."""
    image = _Images(channels=3, size=224)
    image.resnet50()
    return NetworkShape("resnet50-imagenet", tuple(image.layers), batch=256)


def alexnet_imagenet() -> NetworkShape:
    """AlexNet in one column, no groups (Krizhevsky 2014, arXiv 1404.5997), 224×224, as in torchvision."""
    image = _Images(channels=3, size=224)
    image.conv("conv1", 64, kernel=11, stride=4, padding=2)
    image.pool(kernel=3, stride=2)
    image.conv("conv2", 192, kernel=5, padding=2)
    image.pool(kernel=3, stride=2)
    image.conv("conv3", 384, kernel=3, padding=1)
    image.conv("conv4", 256, kernel=3, padding=1)
    image.conv("conv5", 256, kernel=3, padding=1)
    image.pool(kernel=3, stride=2)
    image.linear("fc6", 4096)
    image.linear("fc7", 4096)
    image.linear("fc8", 1000)
    return NetworkShape("alexnet-imagenet", tuple(image.layers), batch=256)


#: (channels, height, width) of the images of `quaver.golden.data`.
IMAGES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
}

#: The networks known by name.
NETWORKS: dict[str, Callable[[], NetworkShape]] = {
    "resnet32-cifar10": resnet32_cifar10,
    "resnet18-imagenet": resnet18_imagenet,
    "resnet50-imagenet": resnet50_imagenet,
    "alexnet-imagenet": alexnet_imagenet,
}


def _blank(size: int | None, x: Any, run: object) -> Any:
    """Zeros in the shape of what a layer without weights makes of `x`: of squares so wide, or of the map."""
    if x.ndim < 4:
        return x
    height, width = (1 if size is None else length // size for length in x.shape[2:])
    return np.zeros((*x.shape[:2], height, width), x.dtype)


def trained_here(name: str) -> NetworkShape:
    """The shapes of MODEL-DATASET, e.g. "mlp-digits": a model of `golden.nn` on a data set of `golden.data`.

    They are read off the GEMMs of one step on one blank image, so they are what training runs.

    Raises
    ------
    ValueError
        There is no such model or data set.
    """
    from quaver.golden.engine import GoldenEngine
    from quaver.golden.nn.layers import Conv2d, Flatten, GemmLayer, Shortcut
    from quaver.golden.nn.models import build
    from quaver.golden.nn.recipe import Precision, Role
    from quaver.golden.nn.recipes import fp32
    from quaver.golden.nn.run import Run

    model, _, data = name.partition("-")
    if data not in IMAGES:
        raise ValueError(f"the data set is {data!r}, but there are {', '.join(IMAGES)}")
    network = build(model, IMAGES[data], classes=10)
    results: dict[str, int] = {}

    class Watch(Run):
        def gemm(self, layer: str, role: Role, precision: Precision, a: Any, b: Any, **_: Any) -> Any:
            if role is Role.FORWARD:
                results[layer] = len(a) * b.shape[1]
            return np.zeros((a.shape[0], b.shape[1]), np.float32)

    for layer in network.walk():  # of what is between GEMMs the shapes alone matter: no kernel is compiled
        if not layer.inner() and not isinstance(layer, (GemmLayer, Flatten, Shortcut)):
            layer.forward = partial(_blank, getattr(layer, "size", 1))  # type: ignore[method-assign]
    network.forward(np.zeros((1, *IMAGES[data]), np.float32), Watch(fp32, GoldenEngine()))
    layers = []
    for layer in network.walk():
        if isinstance(layer, GemmLayer):
            length, outputs = layer.weight.value.shape
            taps = layer.size**2 if isinstance(layer, Conv2d) else 1
            positions = results[layer.name] // outputs
            layers.append(LayerShape(layer.name, length // taps, outputs, taps, positions))
    return NetworkShape(name, tuple(layers), batch=32)
