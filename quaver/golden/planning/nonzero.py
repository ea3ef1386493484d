"""How many products of a network's GEMMs are not zero, counted while it trains."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from quaver.golden import data
from quaver.golden.arithmetic import is_arithmetic
from quaver.golden.nn.models import build
from quaver.golden.nn.recipe import Role
from quaver.golden.nn.recipes import fp8
from quaver.golden.nn.run import Call
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
from quaver.golden.planning.networks import NetworkShape


def measured(network: NetworkShape, steps: int, directory: str | Path | None = None) -> NetworkShape:
    """`network` (of `networks.trained_here`) with the ratios of its first `steps` FP8 training steps.

    The ratio of a GEMM A·B is Σ_k (non-zeros in A's column k)·(non-zeros in B's row k) over M·K·N.
    `directory` holds the data set's files, as in `quaver.golden.data.load`.

    Raises
    ------
    ValueError
        Fewer than one step.
    OSError
        The data set is not there.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, but a measurement takes at least 1 training step")
    model, _, name = network.name.partition("-")
    images = data.load(name, directory)
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])

    def count(call: Call) -> None:
        if not is_arithmetic(call.rule):
            return  # an update
        formats = call.rule.a, call.rule.b
        a, b = (fmt.decode(codes) != 0 for fmt, codes in zip(formats, call.operands, strict=True))
        nonzero = int(a.sum(axis=0, dtype=np.int64) @ b.sum(axis=1, dtype=np.int64))
        found = counts[call.layer, call.role]
        found[0] += nonzero
        found[1] += a.size * b.shape[1]

    trainer = Trainer(
        build(model, images.shape, images.classes), images, fp8, Settings(batch=network.batch), trace=count
    )
    for _ in range(steps):
        trainer.train_step()

    def ratio(layer: str, role: Role) -> float | None:
        nonzero, products = counts[layer, role]
        return nonzero / products if nonzero else None

    return replace(
        network,
        layers=tuple(
            replace(shape, nonzero_ratios=tuple(ratio(shape.name, role) for role in Role))  # type: ignore[arg-type]
            for shape in network.layers
        ),
    )
