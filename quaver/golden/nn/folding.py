"""Inference of a quantised network with batch normalisation folded, in integers from layer to layer.

A GEMM of integers gives sums z. What follows it up to the next layer, its two scales, bias and batch
normalisation, is one factor and one offset for each output channel::

    y = z·factor + offset

Where only ReLU, maxima and flattening lie between two such layers, the first one's sums become the second
one's codes in integers (`quaver.golden.requantisation`), and no real number is left between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from quaver.golden.arithmetic.integer import Integer
from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import IntegerFormat
from quaver.golden.nn.layers import (
    BatchNorm2d,
    Chain,
    Conv2d,
    Flatten,
    GemmLayer,
    Layer,
    MaxPool2d,
    ReLU,
    Residual,
)
from quaver.golden.nn.models import Network
from quaver.golden.nn.quantisers import Clip, Quantised, Quantiser
from quaver.golden.nn.run import Run, Values
from quaver.golden.requantisation import Requantisation


@dataclass(frozen=True, eq=False)
class Folded:
    """A layer with a GEMM, and the batch normalisation behind it.

    Attributes
    ----------
    layer
        The layer.
    weights
        What its GEMM takes: quantised, or float32 where it is in float32.
    inputs
        What its inputs are quantised by, with the learned α; None: they stay.
    factors, offsets
        Of each output channel, float64.
    behind
        Layers that the normalisation took with it: 1 if there is one, else 0.
    requantisation
        To the next layer's codes, where there are only ReLU, maxima and flattening between; else None.
    integer
        Whether the GEMM is of integers, whose scales are in the factors.
    """

    layer: GemmLayer
    weights: Values | Quantised
    inputs: tuple[Quantiser, float] | None
    factors: NDArray[np.float64]
    offsets: NDArray[np.float64]
    behind: int
    requantisation: Requantisation | None
    integer: bool


class FoldedNetwork:
    """A trained network for inference.

    Parameters
    ----------
    network
        The network, with the weights, statistics and α of a trainer.
    run
        The recipe and the engine that the GEMMs run on.

    Attributes
    ----------
    layers
        Layer name → `Folded`.
    """

    def __init__(self, network: Network, run: Run) -> None:
        self.network, self.run = network, run
        self.layers: dict[str, Folded] = {}
        for chain in network.walk():
            if isinstance(chain, Chain):
                for i, layer in enumerate(chain.layers):
                    if isinstance(layer, GemmLayer):
                        self.layers[layer.name] = self._fold(layer, chain.layers[i + 1 :])
            elif isinstance(chain, Residual):
                for layer in chain.inner():
                    if isinstance(layer, GemmLayer):
                        self.layers[layer.name] = self._fold(layer, ())

    def _fold(self, layer: GemmLayer, rest: Sequence[Layer]) -> Folded:
        p = layer.precision(self.run)
        factors = np.ones(layer.weight.value.shape[1])
        offsets = np.zeros(len(factors)) if layer.bias is None else layer.bias.value.astype(np.float64)
        alpha = 0.0 if layer.alpha is None else float(layer.alpha.value[0])
        weights: Values | Quantised = layer.weight.value
        if isinstance(p.weights, Quantiser):
            weights = p.weights.quantise(layer.weight.value, 0.0)
        inputs = (p.inputs, alpha) if isinstance(p.inputs, Quantiser) else None
        integer = isinstance(p.forward, Integer)
        if integer and isinstance(p.inputs, Clip) and isinstance(weights, Quantised):
            factors *= p.inputs.step(alpha) * weights.scale
        norm = rest[0] if rest and isinstance(rest[0], BatchNorm2d) else None
        if norm is not None:
            slope = norm.scale.value / np.sqrt(norm.running_variance.astype(np.float64) + norm.EPSILON)
            offsets = (offsets - norm.running_mean) * slope + norm.shift.value
            factors *= slope
        behind = int(norm is not None)
        following = next(
            (one for one in rest[behind:] if not isinstance(one, ReLU | MaxPool2d | Flatten)), None
        )
        requantisation = None
        if integer and isinstance(following, GemmLayer):
            clip = following.precision(self.run).inputs
            to_integers = isinstance(following.precision(self.run).forward, Integer)
            if to_integers and isinstance(clip, Clip) and not clip.signed:
                step = clip.step(0.0 if following.alpha is None else float(following.alpha.value[0]))
                requantisation = Requantisation.of(factors / step, offsets / step, clip.bits)
        return Folded(layer, weights, inputs, factors, offsets, behind, requantisation, integer)

    @standard_floats
    def forward(self, images: Values) -> Values:
        """Logits (B, classes) of standardised images (B, C, H, W)."""
        self.run.training = False
        return cast("Values", self._chain(self.network.layers, images))  # nothing quantises the last sums

    def _chain(self, layers: Sequence[Layer], x: Values | Quantised) -> Values | Quantised:
        skip = 0
        for layer in layers:
            if skip:
                skip -= 1
                continue
            if isinstance(layer, GemmLayer):
                folded = self.layers[layer.name]
                x, skip = self._gemm(folded, x), folded.behind
            elif isinstance(x, Quantised):  # codes of clipped values are in the values' order
                if not isinstance(layer, ReLU):
                    x = Quantised(x.format, layer.forward(x.codes, self.run), x.scale)
            elif isinstance(layer, Residual):
                main = self._inside(layer.main, x)
                x = main + (self._inside(layer.shortcut, x) if layer.shortcut else x)
            elif isinstance(layer, Chain):
                x = self._chain(layer.layers, x)
            else:
                x = layer.forward(x, self.run)
        return x

    def _inside(self, layer: Layer, x: Values) -> Values:
        return cast("Values", self._chain(layer.layers if isinstance(layer, Chain) else (layer,), x))

    def _gemm(self, folded: Folded, x: Values | Quantised) -> Values | Quantised:
        if folded.requantisation is not None:
            codes = self.sums(folded, x, folded.requantisation)
            return Quantised(IntegerFormat(folded.requantisation.bits), codes, 1.0)
        sums = self.sums(folded, x)
        channels = (-1, 1, 1) if isinstance(folded.layer, Conv2d) else (-1,)
        factors, offsets = folded.factors.reshape(channels), folded.offsets.reshape(channels)
        return (sums.astype(np.float64) * factors + offsets).astype(np.float32)

    def sums(
        self, folded: Folded, x: Values | Quantised, requantisation: Requantisation | None = None
    ) -> NDArray[Any]:
        """What the layer's GEMM makes of its inputs, (B, channels, …): integers as floats, or values in
        float32; or the codes that a requantisation makes of them, where they leave the engine's array."""
        if folded.inputs is not None and not isinstance(x, Quantised):
            quantiser, alpha = folded.inputs
            x = quantiser.quantise(x, alpha)
        sums = folded.layer.product(x, folded.weights, self.run, requantisation)
        return sums if folded.integer else folded.layer.scaled(sums, self.run, x, folded.weights)
