"""Roofline: how fast a network runs at k bits on a machine with so many multipliers, memory and bandwidth.

The reasoning of PACT (Choi et al. 2018, arXiv 1805.06085, §5): from 16 to 4 bits the same silicon has 4 times
the peak, and data takes a quarter of the memory; more of it stays on chip, so that performance grows by more
than 4. The paper says the bandwidth, 64 GB/s, and not the rest; here the rest is parameters.

A layer takes as long as its multiply-accumulates or its traffic, whichever is longer. Traffic, with M bytes
on chip:

* A layer whose weights, inputs and outputs fit M leaves its outputs there; the next layer, if it fits too,
  does not fetch them, and if it does not, they go out for it to fetch. Weights are fetched once a batch,
  unless those of all layers fit beside the largest inputs and outputs: then never.
* A layer that does not fit fetches inputs and weights in pieces of M/2: either each piece of the weights
  meets all inputs, or each piece of the inputs all weights, whichever moves less. Its outputs go out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from quaver.golden.planning.networks import LayerShape, _Images


@dataclass(frozen=True)
class Machine:
    """What a network runs on.

    Parameters
    ----------
    peak
        Multiply-accumulates a second at 16 bits; at k bits 16/k times as many.
    memory
        Bytes on chip.
    bandwidth
        Bytes a second between it and what lies outside.
    """

    peak: float
    memory: float
    bandwidth: float

    def __post_init__(self) -> None:
        for name in ("peak", "memory", "bandwidth"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be positive and finite")

    def peak_at(self, bits: int) -> float:
        """Multiply-accumulates a second at k bits."""
        return self.peak * 16 / bits


@dataclass(frozen=True)
class LayerTime:
    """One layer of one batch.

    Attributes
    ----------
    name
        The layer's.
    macs
        Multiply-accumulates.
    traffic
        Bytes moved.
    compute, transfer
        Seconds of both; the layer takes the longer one.
    fits
        Whether weights, inputs and outputs fit the memory together.
    """

    name: str
    macs: float
    traffic: float
    compute: float
    transfer: float
    fits: bool

    @property
    def seconds(self) -> float:
        """The longer of both."""
        return max(self.compute, self.transfer)


def resnet50() -> list[tuple[LayerShape, int]]:
    """ResNet-50's layers on 224×224, and the values that enter each for one image."""
    image = _Images(channels=3, size=224)
    image.resnet50()
    return list(zip(image.layers, image.inputs, strict=True))


def times(
    layers: list[tuple[LayerShape, int]], bits: int, machine: Machine, batch: int = 1
) -> list[LayerTime]:
    """What each layer of a forward pass takes; `layers` as `resnet50` gives them.

    ValueError: a batch has no images, or values have no bits.
    """
    for name, value in (("batch", batch), ("bits", bits)):
        if value < 1:
            raise ValueError(f"{name} is {value}, but it must be at least 1")
    size = bits / 8
    everything = sum(layer.weights for layer, _ in layers) * size
    largest = (
        max(entering + layer.out_channels * layer.positions for layer, entering in layers) * batch * size
    )
    resident = everything + largest <= machine.memory
    sizes = [
        (layer.weights * size, entering * batch * size, layer.out_channels * layer.positions * batch * size)
        for layer, entering in layers
    ]
    fit = [sum(parts) <= machine.memory for parts in sizes]
    found = []
    stays = False  # the inputs are on chip: the layer before has left them there
    for i, ((layer, _), (weights, inputs, outputs), fits) in enumerate(zip(layers, sizes, fit, strict=True)):
        if fits:
            traffic = (0 if resident else weights) + (0 if stays else inputs)
            if not all(fit[i + 1 : i + 2]):
                traffic += outputs
        else:
            piece = machine.memory / 2
            by_weights = ceil(weights / piece) * inputs + weights
            by_inputs = ceil(inputs / piece) * weights + inputs
            traffic = min(by_weights, by_inputs) + outputs
        stays = fits
        macs = layer.macs * batch
        compute, transfer = macs / machine.peak_at(bits), traffic / machine.bandwidth
        found.append(LayerTime(layer.name, macs, traffic, compute, transfer, fits))
    return found


def performance(layers: list[tuple[LayerShape, int]], bits: int, machine: Machine, batch: int = 1) -> float:
    """Multiply-accumulates a second over the whole network."""
    spent = times(layers, bits, machine, batch)
    return sum(layer.macs for layer in spent) / sum(layer.seconds for layer in spent)
