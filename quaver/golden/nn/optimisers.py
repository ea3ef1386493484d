"""Which update a training step takes: SGD with momentum or Adam, in the recipe's format or in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.golden.engine import UpdateRule
from quaver.golden.nn.recipe import FixedUpdatePrecision, UpdatePrecision
from quaver.golden.nn.settings import Settings
from quaver.golden.update.adam import Adam


def momenta(settings: Settings, weights: NDArray[Any]) -> NDArray[Any]:
    """What the optimiser keeps of one parameter before the first step: zeros in the shape of `weights`, and
    for Adam (2, *shape)."""
    return np.zeros_like(weights, shape=(2, *weights.shape) if settings.optimiser == "adam" else None)


def rule(
    settings: Settings,
    precision: UpdatePrecision | FixedUpdatePrecision,
    rate: float,
    decay: float,
    step: int,
) -> UpdateRule:
    """The update rule of one parameter in the recipe's precision.

    `rate` is the learning rate, `decay` the parameter's L2 regularisation, and `step` the number of this
    update, counted from 1.

    ValueError: the precision has no such update.
    """
    if settings.optimiser == "sgd":
        return precision.rule(rate, settings.momentum, decay)
    if not isinstance(precision, UpdatePrecision):
        raise ValueError(f"the optimiser is {settings.optimiser}, but fixed point updates by sgd only")
    how = precision.format, precision.rounding, precision.random_bits
    return Adam(rate, settings.momentum, settings.second_momentum, Adam.epsilon, decay, step, *how)


def in_float32(
    settings: Settings,
    weights: NDArray[np.float32],
    momenta: NDArray[np.float32],
    gradients: NDArray[np.float32],
    rate: float,
    decay: float,
    step: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The same update in plain float32: the new weights and momenta."""
    g = gradients + np.float32(decay) * weights
    if settings.optimiser == "sgd":
        v = np.float32(settings.momentum) * momenta + g
        return weights - np.float32(rate) * v, v
    exact = Adam(rate, settings.momentum, settings.second_momentum, decay=decay, step=step).factors
    factor = {name: np.float32(value) for name, value in exact.items()}
    m = momenta[0] + factor["momentum"] * (g - momenta[0])
    v = momenta[1] + factor["second"] * (g * g - momenta[1])
    return weights - factor["rate"] * (m / (np.sqrt(v) + factor["epsilon"])), np.stack([m, v])
