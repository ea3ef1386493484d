"""What the operators of `quaver.torch.between` do on a GPU: the same formulas in float64, rounded once.

Everything that is computed element by element has golden's bits, but for the last bit of float64's
exponential and logarithm, which a rounding to `format` hides all but always. Sums over a batch or a map
(statistics of batch normalisation, gradients of biases, the loss) are PyTorch's reductions in float64: the
same at every run, in an order of the device's own, so that they may differ from golden's in the last bits
of a float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quaver.torch import on_cuda


def _rounded(values: Tensor, format: str | None) -> Tensor:
    return values.to(torch.float32) if format is None else on_cuda.round(values, format, "nearest").float()


def _along(values: Tensor) -> tuple[int, ...]:
    """All axes but that of channels."""
    return (0, *range(2, values.ndim))


def _per_channel(vector: Tensor, axes: int) -> Tensor:
    return vector.reshape(-1, *(1,) * (axes - 2))


def widen(values: Tensor) -> Tensor:
    return values.to(torch.float64, copy=True)


def rounded(values: Tensor, format: str | None) -> Tensor:
    out = _rounded(values, format)
    return out.clone() if out is values else out  # an operator's result is no alias of its input


def add_bias(values: Tensor, bias: Tensor, format: str | None) -> Tensor:
    return _rounded(values + _per_channel(bias, values.ndim), format)


def bias_gradient(error: Tensor, format: str | None) -> Tensor:
    return _rounded(error.sum(_along(error), dtype=torch.float64), format)


def _moments(values: Tensor, x: Tensor) -> Tensor:
    """Of each channel: the sum of `values`, and of values · x; float64 (2, C)."""
    wide, axes = values.double(), _along(values)
    return torch.stack([wide.sum(axes), (wide * x).sum(axes)])


def batch_statistics(x: Tensor) -> Tensor:
    mean, square = _moments(x, x) / (x.numel() // x.shape[1])
    return torch.stack([mean, (square - mean**2).clamp(min=0.0)])


def running_statistics(
    running: Tensor, statistics: Tensor, count: int, momentum: float | None, batches: Tensor
) -> Tensor:
    before, new = running.double(), statistics.clone()
    new[1] = new[1] * count / max(count - 1, 1)
    step = 1 / int(batches) if momentum is None else momentum
    return torch.where(torch.isfinite(new), before + step * (new - before), before).float()


def _affine(values: Tensor, x: Tensor, factors: tuple[Tensor, ...], format: str | None) -> Tensor:
    """a · values + b · x + c, with a, b, c of each channel."""
    a, b, c = (_per_channel(factor, values.ndim) for factor in factors)
    return _rounded(a * values.double() + b * x.double() + c, format)


def batch_norm(
    x: Tensor, scale: Tensor, shift: Tensor, statistics: Tensor, epsilon: float, format: str | None
) -> Tensor:
    mean, variance = statistics
    factor = scale * (1 / torch.sqrt(variance + epsilon))
    return _affine(x, x, (factor, 0 * factor, shift - mean * factor), format)


def batch_norm_backward(
    error: Tensor,
    x: Tensor,
    scale: Tensor,
    statistics: Tensor,
    epsilon: float,
    of_batch: bool,
    format: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    mean, variance = statistics
    inverse = 1 / torch.sqrt(variance + epsilon)
    shift, product = _moments(error, x)
    gradient = inverse * (product - mean * shift)
    factor = scale * inverse
    slope = offset = 0 * factor
    if of_batch:
        count = x.numel() // x.shape[1]
        slope = -factor * inverse * gradient / count
        offset = -factor * shift / count - slope * mean
    dx = _affine(error, x, (factor, slope, offset), format)
    return dx, _rounded(gradient, format), _rounded(shift, format)


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shifted = logits.double() - logits.amax(1, keepdim=True)
    exponentials = shifted.exp()
    return shifted, exponentials, exponentials.sum(1, keepdim=True)


def _check(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and labels {tuple(labels.shape)}, but they must be "
            f"(batch, classes) and (batch,)"
        )
    if not labels.numel():
        raise ValueError(f"logits have shape {tuple(logits.shape)}, no example, for a mean of losses")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        wrong = low if low < 0 else high
        raise ValueError(f"labels hold {wrong}, but there are classes 0 … {logits.shape[1] - 1}")
    return labels.long()[:, None]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    index = _check(logits, labels)
    shifted, _, total = _softmax(logits)
    return (total.log() - shifted.gather(1, index)).mean()


def cross_entropy_error(logits: Tensor, labels: Tensor, scale: Tensor, format: str | None) -> Tensor:
    index = _check(logits, labels)
    _, exponentials, total = _softmax(logits)
    error = exponentials / total
    error.scatter_(1, index, error.gather(1, index) - 1)
    return _rounded(error * (scale.double() / len(labels)), format)
