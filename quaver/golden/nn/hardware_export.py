"""What hardware is given to run a trained network's layers of integers: codes of weights, and what becomes of
sums, as `quaver.golden.nn.folding` computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden.arithmetic.integer import Integer
from quaver.golden.descriptor import descriptor
from quaver.golden.nn.folding import FoldedNetwork
from quaver.golden.nn.quantisers import Clip, Quantised
from quaver.golden.nn.run import Run
from quaver.golden.nn.trainer import Trainer


def to_arrays(trainer: Trainer) -> dict[str, NDArray[Any]]:
    """The trainer's network, by the recipe that made its weights.

    `mean` and `deviation` make a network's inputs of images: (image − mean) / deviation. For each layer of
    integers, its name in front of each:

    ================================ =========================================================================
    .arithmetic                      its descriptor: formats of inputs and weights, bits of the accumulator
    .weights                         codes (K, N), the GEMM's operand B; of a convolution K is its im2col's
    .input_step                      what 1 of an input code is worth, where the inputs are not codes already
    .value_factors, .value_offsets   of each output n: what sum · factor + offset is worth, float64
    .multipliers, .offsets           of each output n, and
    .shift, .bits                    of all: what makes the next layer's codes of the sums
                                     (`quaver.golden.requantisation`); only where that is possible
    ================================ =========================================================================

    ValueError: no layer is of integers.
    """
    run = Run(trainer.recipe_of_weights, trainer.run.engine)
    run.training = False
    mean, deviation = trainer.data.mean_and_deviation
    arrays: dict[str, NDArray[Any]] = {"mean": mean, "deviation": deviation}
    for name, folded in FoldedNetwork(trainer.network, run).layers.items():
        arithmetic = folded.layer.precision(run).forward
        if not isinstance(arithmetic, Integer) or not isinstance(folded.weights, Quantised):
            continue
        clip, alpha = folded.inputs or (None, 0.0)
        if not isinstance(clip, Clip):
            continue
        of_layer: dict[str, Any] = {
            "arithmetic": str(descriptor(arithmetic)),
            "weights": folded.weights.codes,
            "input_step": clip.step(alpha),
            "value_factors": folded.factors,
            "value_offsets": folded.offsets,
        }
        if (requantise := folded.requantisation) is not None:
            of_layer |= {
                "multipliers": requantise.multipliers,
                "offsets": requantise.offsets,
                "shift": requantise.shift,
                "bits": requantise.bits,
            }
        arrays |= {f"{name}.{what}": np.asarray(value) for what, value in of_layer.items()}
    if len(arrays) == 2:
        raise ValueError(
            f"no layer of the recipe {run.recipe.name} is of integers, which alone have codes; take "
            f"a run of a recipe of quantised layers such as pact-4-everywhere"
        )
    return arrays
