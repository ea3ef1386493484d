"""What the operators of `quaver.torch.quantisers` do on a GPU: the same formulas in float64.

A clip's codes, values and errors have golden's bits. Weights have them but where the last bit of a float64
hyperbolic tangent, or of SAWB's two means, decides between two codes; α's gradient is a sum in the device's
own order, rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quaver.golden.formats import Levels, parse
from quaver.golden.nn.quantisers import LEAST_ALPHA, Clip, DoReFaWeights, SAWBWeights
from quaver.golden.nn.recipe import from_text
from quaver.torch import on_cuda


def quantise(
    values: Tensor, alpha: Tensor | None, quantiser: str, operand: str | None, transposed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    how, wide = from_text(quantiser), values.double()
    if operand is not None and parse(operand) != how.format:
        raise TypeError(
            f"{how} makes codes of {how.format}, but the GEMM takes {operand}; on a GPU they agree"
        )
    if bool(wide.isnan().any()):
        raise ValueError(
            f"values hold NaN, for which {how} has no code: the run has diverged; take a smaller "
            f"learning rate"
        )
    if isinstance(how, Clip):
        low, high = _range(how, alpha, wide)
        numbers = (wide.clamp(low, high) * how.steps / high).round()
        scale = high / how.steps
    else:
        ends, unit = _weights(how, wide)
        if bool(unit.isnan().any()):  # an infinity over an infinity
            raise ValueError(
                f"weights hold infinity, for which {how} has no scale: the run has diverged; take a smaller "
                f"learning rate"
            )
        steps = (1 << how.bits) - 1
        numbers = 2 * ((unit / 2 + 0.5) * steps).round() - steps
        scale = ends / steps
    codes = numbers.to(torch.int32)
    if how.format.levels is Levels.ODD:
        codes = (codes + (1 << how.bits) - 1) >> 1
    return (numbers * scale).float(), (codes & ((1 << how.bits) - 1)).to(torch.uint8), scale


def quantise_backward(
    values: Tensor,
    error: Tensor,
    alpha: Tensor | None,
    quantiser: str,
    transposed: bool,
    format: str | None,
) -> tuple[Tensor, Tensor]:
    how, wide = from_text(quantiser), values.double()
    gradient = torch.zeros(1, dtype=torch.float64, device=values.device)
    if isinstance(how, Clip):
        low, high = _range(how, alpha, wide)
        dx = torch.where((low <= wide) & (wide < high), error, 0.0)
        if how.learned:
            over = torch.where(wide >= high, error, 0.0).sum(dtype=torch.float64)
            under = torch.where(wide < low, error, 0.0).sum(dtype=torch.float64) if how.signed else 0.0
            gradient = (over - under).reshape(1)
    elif isinstance(how, SAWBWeights):
        dx = torch.where(wide.abs() <= _weights(how, wide)[0], error, 0.0)
    else:
        t = wide.tanh()
        largest, of_tanh = _largest(t), error.double()
        if not how.scaled:
            of_tanh = of_tanh / largest
            place = t.abs().argmax()
            of_tanh.view(-1)[place] -= t.view(-1)[place].sign() * (of_tanh * t).sum() / largest
        dx = (of_tanh * (1 - t**2)).float()
    rounded = gradient if format is None else on_cuda.round(gradient, format, "nearest")
    return dx.float(), rounded.float()


def scaled(results: Tensor, scales: list[Tensor]) -> Tensor:
    scale = scales[0]
    for each in scales[1:]:
        scale = scale * each
    return (results.double() * scale).float()


def _range(how: Clip, alpha: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Both ends of a clip's range, float64 ()."""
    if how.learned and alpha is not None:
        high = alpha.double().reshape(())
        if not bool(high.isfinite()):
            how.range(float(high))  # which says that the run has diverged
        high = high.clamp(min=LEAST_ALPHA)
    else:
        high = like.new_tensor(how.range(0.0)[1])
    return (-high if how.signed else torch.zeros_like(high)), high


def _weights(how: Any, wide: Tensor) -> tuple[Tensor, Tensor]:
    """The largest level of weights, float64 (), and the weights as parts of what becomes it, −1 … 1."""
    if isinstance(how, DoReFaWeights):
        t = wide.tanh()
        largest = t.abs().amax()
        unit = t / torch.where(largest > 0, largest, 1.0)
        return (largest if how.scaled else torch.ones_like(largest)), unit
    if not isinstance(how, SAWBWeights):
        raise TypeError(f"{how} has no operator on a GPU; compute it on the CPU")
    c1, c2 = how.CONSTANTS[how.bits]
    end = c1 * (wide**2).mean().sqrt() + c2 * wide.abs().mean()
    end = torch.where(end > 0, end, wide.abs().amax())
    return end, (wide / torch.where(end > 0, end, 1.0)).clamp(-1, 1)


def _largest(values: Tensor) -> Tensor:
    """The largest magnitude; 1 where all are 0."""
    found = values.abs().amax()
    return torch.where(found > 0, found, 1.0)
