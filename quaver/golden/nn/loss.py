"""Softmax cross-entropy, and the error it sends back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quaver.golden.nn.run import Run, Values


def softmax_cross_entropy(
    logits: Values, labels: NDArray[np.integer], scale: float, run: Run
) -> tuple[float, Values]:
    """The mean loss over the batch, and the error of the logits times `scale`.

    `logits` (B, classes), `labels` (B,). Both are computed in float64; the error is rounded once as it leaves
    (`Run.round`), so that in the FP8 recipe the loss scale acts before FP16 can lose small errors. The loss
    itself is only reported and never rounded.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float(np.mean(np.log(total[:, 0]) - shifted[rows, labels]))
    error = exponentials / total
    error[rows, labels] -= 1
    return loss, run.round(error * (scale / len(labels)))
