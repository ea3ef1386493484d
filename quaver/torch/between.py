"""What lies between GEMMs, as operators: computed widely, in the golden model's order, and rounded once.

On CUDA `quaver.torch.between_on_cuda` says whose order it is.

`format` names what they round to; None is float32. Annotations are evaluated here, because PyTorch reads an
operator's schema from them.
"""

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quaver.golden import kernels
from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import parse
from quaver.golden.nn.loss import softmax_cross_entropy
from quaver.torch import between_on_cuda
from quaver.torch.functions import _values


class _Rounding:
    """As much of a `quaver.golden.nn.run.Run` as an operation between GEMMs asks for."""

    def __init__(self, format: str | None) -> None:
        self.format = None if format is None else parse(format)

    def round(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values, np.float32) if self.format is None else self.format.round(values)


def _rounded(values: np.ndarray, format: str | None) -> Tensor:
    return torch.from_numpy(np.asarray(_Rounding(format).round(values)))


def _per_channel(vector: np.ndarray, axes: int) -> np.ndarray:
    """A vector along axis 1 of that many axes."""
    return vector.reshape(-1, *(1,) * (axes - 2))


@torch.library.custom_op("quaver::widen", mutates_args=(), device_types="cpu")
@standard_floats
def widen_op(values: Tensor) -> Tensor:
    """In float64."""
    return torch.from_numpy(np.array(_values(values), np.float64))


@widen_op.register_fake
def _(values):
    return values.new_empty(values.shape, dtype=torch.float64)


@torch.library.custom_op("quaver::rounded", mutates_args=(), device_types="cpu")
@standard_floats
def rounded_op(values: Tensor, format: str | None) -> Tensor:
    """Rounded once."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _rounded(np.array(_values(values)), format)


@rounded_op.register_fake
def _(values, format):
    return values.new_empty(values.shape, dtype=torch.float32)


@torch.library.custom_op("quaver::add_bias", mutates_args=(), device_types="cpu")
@standard_floats
def add_bias_op(values: Tensor, bias: Tensor, format: str | None) -> Tensor:
    """float32 `values` (batch, N, …) with `bias` (N,) on each."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _rounded(_values(values) + _per_channel(_values(bias), values.ndim), format)


@add_bias_op.register_fake
def _(values, bias, format):
    return values.new_empty(values.shape, dtype=torch.float32)


@torch.library.custom_op("quaver::bias_gradient", mutates_args=(), device_types="cpu")
@standard_floats
def bias_gradient_op(error: Tensor, format: str | None) -> Tensor:
    """Of an error (batch, N, …): the sum over all but N."""
    array = np.ascontiguousarray(_values(error))
    with np.errstate(over="ignore", invalid="ignore"):
        return _rounded(array.sum(axis=(0, *range(2, array.ndim)), dtype=np.float64), format)


@bias_gradient_op.register_fake
def _(error, format):
    return error.new_empty(error.shape[1], dtype=torch.float32)


# Batch normalisation. `statistics` are mean and variance of each channel, float64 (2, C).


@torch.library.custom_op("quaver::batch_statistics", mutates_args=(), device_types="cpu")
@standard_floats
def batch_statistics_op(x: Tensor) -> Tensor:
    """Those of (batch, C, …)."""
    mean, square = _moments(x, x) / (x.numel() // x.shape[1])
    return torch.from_numpy(np.stack([mean, np.maximum(square - mean**2, 0.0)]))


@batch_statistics_op.register_fake
def _(x):
    return x.new_empty((2, x.shape[1]), dtype=torch.float64)


@torch.library.custom_op("quaver::running_statistics", mutates_args=(), device_types="cpu")
@standard_floats
def running_statistics_op(
    running: Tensor, statistics: Tensor, count: int, momentum: float | None, batches: Tensor
) -> Tensor:
    """`running` (2, C) moved towards those of a batch of `count` values a channel, where they are finite.

    By `momentum`, or without one to the mean over all `batches`.
    """
    before, new = _values(running).astype(np.float64), statistics.numpy(force=True).copy()
    new[1] = new[1] * count / max(count - 1, 1)
    step = 1 / int(batches) if momentum is None else momentum
    with np.errstate(invalid="ignore"):
        after = np.where(np.isfinite(new), before + step * (new - before), before)
    return torch.from_numpy(after.astype(np.float32))


@running_statistics_op.register_fake
def _(running, statistics, count, momentum, batches):
    return running.new_empty(running.shape)


@torch.library.custom_op("quaver::batch_norm", mutates_args=(), device_types="cpu")
@standard_floats
def batch_norm_op(
    x: Tensor, scale: Tensor, shift: Tensor, statistics: Tensor, epsilon: float, format: str | None
) -> Tensor:
    """(batch, C, …) normalised, scaled and shifted."""
    mean, variance = statistics.numpy(force=True)
    with np.errstate(over="ignore", invalid="ignore"):
        factor = _values(scale) * (1 / np.sqrt(variance + epsilon))
        return _affine(x, x, (factor, 0 * factor, _values(shift) - mean * factor), format)


@batch_norm_op.register_fake
def _(x, scale, shift, statistics, epsilon, format):
    return x.new_empty(x.shape, dtype=torch.float32)


@torch.library.custom_op("quaver::batch_norm_backward", mutates_args=(), device_types="cpu")
@standard_floats
def batch_norm_backward_op(
    error: Tensor,
    x: Tensor,
    scale: Tensor,
    statistics: Tensor,
    epsilon: float,
    of_batch: bool,
    format: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The error of x, and the gradients of scale and shift. `of_batch`: the statistics were those of x."""
    mean, variance = statistics.numpy(force=True)
    with np.errstate(over="ignore", invalid="ignore"):
        inverse = 1 / np.sqrt(variance + epsilon)
        shift, product = _moments(error, x)
        gradient = inverse * (product - mean * shift)  # Σ error · normalised x
        factor = _values(scale) * inverse
        slope = offset = 0 * factor
        if of_batch:  # factor · (error − shift/count − normalised x · gradient/count)
            count = x.numel() // x.shape[1]
            slope = -factor * inverse * gradient / count
            offset = -factor * shift / count - slope * mean
        dx = _affine(error, x, (factor, slope, offset), format)
        return dx, _rounded(gradient, format), _rounded(shift, format)


@batch_norm_backward_op.register_fake
def _(error, x, scale, statistics, epsilon, of_batch, format):
    return tuple(like.new_empty(like.shape, dtype=torch.float32) for like in (x, scale, scale))


def _maps(tensor: Tensor) -> np.ndarray:
    """(batch, C, …) as contiguous (batch, C, H, 1)."""
    return np.ascontiguousarray(_values(tensor)).reshape(*tensor.shape[:2], prod(tensor.shape[2:]), 1)


def _moments(values: Tensor, x: Tensor) -> np.ndarray:
    """Of each channel: the sum of `values`, and of values · x; float64 (2, C)."""
    sums = np.empty((2, values.shape[1]))
    kernels.maps.moments(_maps(values), _maps(x), sums)
    return sums


def _affine(values: Tensor, x: Tensor, factors: tuple[np.ndarray, ...], format: str | None) -> Tensor:
    """a · values + b · x + c, with a, b, c of each channel."""
    first = _maps(values)
    out = np.empty(first.shape)
    kernels.maps.affine(first, _maps(x), np.stack(factors), out)
    return _rounded(out.reshape(values.shape), format)


@torch.library.custom_op("quaver::cross_entropy", mutates_args=(), device_types="cpu")
def cross_entropy_op(logits: Tensor, labels: Tensor) -> Tensor:
    """`quaver.golden.nn.loss.softmax_cross_entropy`'s loss, float64."""
    return torch.tensor(_cross_entropy(logits, labels, 1.0, None)[0], dtype=torch.float64)


@cross_entropy_op.register_fake
def _(logits, labels):
    return logits.new_empty((), dtype=torch.float64)


@torch.library.custom_op("quaver::cross_entropy_error", mutates_args=(), device_types="cpu")
def cross_entropy_error_op(logits: Tensor, labels: Tensor, scale: Tensor, format: str | None) -> Tensor:
    """And its error, times `scale` before it is rounded."""
    return torch.from_numpy(_cross_entropy(logits, labels, float(scale), format)[1])


@cross_entropy_error_op.register_fake
def _(logits, labels, scale, format):
    return logits.new_empty(logits.shape, dtype=torch.float32)


@standard_floats
def _cross_entropy(
    logits: Tensor, labels: Tensor, scale: float, format: str | None
) -> tuple[float, np.ndarray]:
    classes = labels.numpy(force=True)
    if logits.ndim != 2 or classes.shape != logits.shape[:1]:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and labels {classes.shape}, but they must be (batch, "
            f"classes) and (batch,)"
        )
    if not classes.size:
        raise ValueError(f"logits have shape {tuple(logits.shape)}, no example, for a mean of losses")
    if not 0 <= classes.min() <= classes.max() < logits.shape[1]:
        wrong = classes.min() if classes.min() < 0 else classes.max()
        raise ValueError(f"labels hold {wrong}, but there are classes 0 … {logits.shape[1] - 1}")
    with np.errstate(over="ignore", invalid="ignore"):
        run: Any = _Rounding(format)
        return softmax_cross_entropy(_values(logits), classes, scale, run)


widen_op.register_kernel("cuda", between_on_cuda.widen)
rounded_op.register_kernel("cuda", between_on_cuda.rounded)
add_bias_op.register_kernel("cuda", between_on_cuda.add_bias)
bias_gradient_op.register_kernel("cuda", between_on_cuda.bias_gradient)
batch_statistics_op.register_kernel("cuda", between_on_cuda.batch_statistics)
running_statistics_op.register_kernel("cuda", between_on_cuda.running_statistics)
batch_norm_op.register_kernel("cuda", between_on_cuda.batch_norm)
batch_norm_backward_op.register_kernel("cuda", between_on_cuda.batch_norm_backward)
cross_entropy_op.register_kernel("cuda", between_on_cuda.cross_entropy)
cross_entropy_error_op.register_kernel("cuda", between_on_cuda.cross_entropy_error)
