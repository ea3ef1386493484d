"""Where the values of a training run lie: histograms by binade, taken from the trace of one step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.formats import FP16
from quaver.golden.nn import checkpoint
from quaver.golden.nn.recipe import Precision, Recipe, Role, UpdatePrecision
from quaver.golden.nn.run import Call
from quaver.golden.nn.trainer import Trainer

#: What the histograms are of, in the order of the flow.
KINDS = ("activations", "weights", "errors", "weight gradients")
#: Binades that are counted: 2**LOWEST … 2**(HIGHEST + 1).
LOWEST, HIGHEST = -44, 34


@dataclass(frozen=True)
class Histogram:
    """How many magnitudes lie in each of the binades LOWEST … HIGHEST (`counts`), and how many are zero."""

    counts: NDArray[np.int64]
    zeros: int

    @property
    def shares(self) -> NDArray[np.float64]:
        """The share that each binade has in the values that are not zero."""
        return self.counts / max(int(self.counts.sum()), 1)


def replayed(recipe: Recipe) -> Recipe:
    """`recipe` with FP16 operands in every GEMM: what its values are before they are cast to 8 bits.

    ValueError: the recipe does not keep its weights in FP16, so that the replay could not take its state.
    """
    if not isinstance(recipe.update, UpdatePrecision) or recipe.update.format != FP16:
        raise ValueError(f"{recipe.name} keeps its weights in {recipe.update or 'float32'}, not in FP16")
    gemm = ChunkedFloat(operand=FP16)
    wide = Precision(gemm, gemm, gemm)
    return recipe.replace(name=f"{recipe.name}, FP16 operands", hidden=wide, first=None, last=None, layers={})


def histograms(trainer: Trainer, path: Path) -> dict[str, Histogram]:
    """The histograms of the step that follows the checkpoint at `path`, by kind.

    `trainer` must be a new trainer with the network, data, recipe and settings of the checkpoint's run.
    Activations and errors are those that enter the gradient GEMMs (the errors are multiplied by the loss
    scale), weights are the master weights, and gradients are what the update is given. Infinities and NaN are
    not counted.
    """
    checkpoint.resume(trainer, path)
    state = trainer.state()
    found: dict[str, list[Histogram]] = {kind: [] for kind in KINDS}

    def trace(call: Call) -> None:
        if call.role == Role.GRADIENT:
            found["activations"].append(_counted(call.operands[0]))
            found["errors"].append(_counted(call.operands[1]))
        elif call.role == "update" and call.layer.endswith(".weight"):
            found["weights"].append(_counted(call.operands[0]))
            found["weight gradients"].append(_counted(call.operands[2]))

    replay = Trainer(
        trainer.network,
        trainer.data,
        replayed(trainer.recipe),
        trainer.settings,
        engine=trainer.run.engine,
        trace=trace,
    )
    replay.restore(state)
    replay.train_step()
    return {
        kind: Histogram(sum((h.counts for h in parts), np.zeros(HIGHEST - LOWEST + 1, np.int64)), zeros)
        for kind, parts in found.items()
        for zeros in [sum(h.zeros for h in parts)]
    }


def _counted(codes: NDArray[np.unsignedinteger]) -> Histogram:
    """The histogram of an array of FP16 codes."""
    magnitudes = np.bincount((codes & (FP16.sign_code - 1)).reshape(-1), minlength=FP16.sign_code)
    values = FP16.decode(np.arange(1, FP16.max_code + 1, dtype=np.uint16))
    binades = np.frexp(values)[1] - 1 - LOWEST
    counts = np.bincount(binades, magnitudes[1 : FP16.max_code + 1], HIGHEST - LOWEST + 1)
    return Histogram(counts.astype(np.int64), int(magnitudes[0]))
