"""Learned clipping and weights of a few bits: `quaver.golden.nn.quantisers` as operators and as a module.

A quantised tensor is integers and one scale. The forward GEMM takes the integers, which the engine sees as
codes, and its results are multiplied by both scales; the other two GEMMs take the values. Weights are
quantised in the memory order of golden's (K, N), so that means and maxima are golden's.

Annotations are evaluated here, because PyTorch reads an operator's schema from them.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from quaver.golden.float_environment import standard_floats
from quaver.golden.nn.quantisers import Clip, Quantised
from quaver.golden.nn.recipe import as_text
from quaver.torch import quantisers_on_cuda
from quaver.torch.functions import _codes_of, _format_of, _tensor, _values, arithmetic_of
from quaver.torch.once import once_differentiable


class Numbers(NamedTuple):
    """What a forward GEMM takes in the place of values, where it multiplies codes with a scale.

    Attributes
    ----------
    inputs, weights
        Codes of the quantised tensor; None: that one is not.
    scales
        What 1 is worth of each that is, float64 ().
    """

    inputs: Tensor | None = None
    weights: Tensor | None = None
    scales: tuple[Tensor, ...] = ()

    @property
    def input_scales(self) -> tuple[Tensor, ...]:
        """That of the inputs, if they have one."""
        return () if self.inputs is None else self.scales[:1]

    @property
    def weight_scales(self) -> tuple[Tensor, ...]:
        """That of the weights, if they have one."""
        return () if self.weights is None else self.scales[-1:]

    def scaled(self, results: Tensor) -> Tensor:
        """The results of the forward GEMM times both scales."""
        return scaled(results, self.scales)


def scaled(results: Tensor, scales: tuple[Tensor, ...]) -> Tensor:
    """The results times all scales: one multiplication, rounded once to float32."""
    return scaled_op(results, list(scales)) if scales else results


class Quantise(torch.autograd.Function):
    """values and α → (values, codes, scale), quantised; back: the quantiser's own derivatives."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        alpha: Tensor | None,
        quantiser: str,
        operand: str | None,
        transposed: bool,
        format: str | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(values, alpha)
        ctx.quantiser, ctx.transposed, ctx.format = quantiser, transposed, format
        out, codes, scale = quantise_op(values, alpha, quantiser, operand, transposed)
        ctx.mark_non_differentiable(codes, scale)
        return out, codes, scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        values, alpha = ctx.saved_tensors
        dx, dalpha = quantise_backward_op(
            values, error.contiguous(), alpha, ctx.quantiser, ctx.transposed, ctx.format
        )
        return dx, None if alpha is None else dalpha, None, None, None, None


@dataclass(frozen=True)
class Quantisation:
    """How a tensor is quantised, spelt out for the operators.

    Attributes
    ----------
    quantiser
        As `quaver.golden.nn.recipe.as_text` writes it.
    operand
        The format of the codes; None: the quantiser's own.
    transposed
        Whether the tensor is a weight, (N, …) here and (K, N) in golden.
    format
        What α's gradient is rounded to; None: float32.
    """

    quantiser: str
    operand: str | None
    transposed: bool
    format: str | None

    def numbers(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As called, of errors, which nothing goes back through."""
        return quantise_op(values, None, self.quantiser, self.operand, self.transposed)

    def __call__(self, values: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The quantised values, through which errors go back; their codes, and what 1 is worth of them."""
        found: tuple[Tensor, Tensor, Tensor] = Quantise.apply(
            values, alpha, self.quantiser, self.operand, self.transposed, self.format
        )
        return found


class PACT(nn.Module):
    """PACT's activation: clip to [0, α] and 2**bits − 1 equal steps, α learned (Choi et al. 2018).

    For models put together by hand; `quaver.torch.convert` gives a layer with weights its own α instead, so
    that its GEMM takes the integers. With any PyTorch optimiser, α belongs to a group with the weights' L2
    regularisation.

    Parameters
    ----------
    bits, alpha, learned, signed
        As of `quaver.golden.nn.quantisers.Clip`.

    Attributes
    ----------
    alpha
        The parameter, (1,); None where it is not learned.

    Raises
    ------
    ValueError
        As of `Clip`; in the forward pass, for NaN.
    """

    def __init__(self, bits: int, alpha: float = 10.0, learned: bool = True, signed: bool = False) -> None:
        super().__init__()
        self.clip = Clip(bits, alpha, learned, signed)
        self.quantisation = Quantisation(as_text(self.clip), None, transposed=False, format=None)
        self.alpha = nn.Parameter(torch.full((1,), float(alpha), dtype=torch.float32)) if learned else None

    def forward(self, input: Tensor) -> Tensor:
        """The quantised values, float32 of the same shape."""
        return self.quantisation(input, self.alpha)[0]

    def extra_repr(self) -> str:
        return str(self.clip)


def _golden(values: Tensor, transposed: bool) -> np.ndarray:
    """As golden has it: a weight (N, …) as (K, N), in memory too."""
    array = _values(values)
    return (
        np.ascontiguousarray(array.reshape(len(array), prod(array.shape[1:])).T)
        if transposed
        else np.ascontiguousarray(array)
    )


def _back(array: np.ndarray, like: Tensor, transposed: bool) -> Tensor:
    return _tensor(np.ascontiguousarray(array.T if transposed else array).reshape(like.shape))


def _alpha(alpha: Tensor | None) -> float:
    return 0.0 if alpha is None else float(_values(alpha)[0])


@torch.library.custom_op("quaver::quantise", mutates_args=(), device_types="cpu")
@standard_floats
def quantise_op(
    values: Tensor, alpha: Tensor | None, quantiser: str, operand: str | None, transposed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The quantised values, their codes in the format `operand` (the quantiser's own if it is None), and what
    1 is worth of them."""
    found: Quantised = arithmetic_of(quantiser).quantise(_golden(values, transposed), _alpha(alpha))
    codes, fmt = found.codes, found.format
    if operand is not None and _format_of(operand) != fmt:
        codes = _format_of(operand).encode(fmt.integers(codes))
    scale = torch.tensor(found.scale, dtype=torch.float64)
    return _back(found.values, values, transposed), _back(codes, values, transposed), scale


@quantise_op.register_fake
def _(values, alpha, quantiser, operand, transposed):
    fmt = arithmetic_of(quantiser).format if operand is None else _format_of(operand)
    return (
        values.new_empty(values.shape, dtype=torch.float32),
        values.new_empty(values.shape, dtype=_codes_of(fmt)),
        values.new_empty((), dtype=torch.float64),
    )


@torch.library.custom_op("quaver::quantise_backward", mutates_args=(), device_types="cpu")
@standard_floats
def quantise_backward_op(
    values: Tensor,
    error: Tensor,
    alpha: Tensor | None,
    quantiser: str,
    transposed: bool,
    format: str | None,
) -> tuple[Tensor, Tensor]:
    """From the error of the quantised values, that of the values; and α's gradient (1,), rounded."""
    how = arithmetic_of(quantiser)
    dx, gradient = how.backward(_golden(values, transposed), _golden(error, transposed), _alpha(alpha))
    of_alpha = np.array([gradient])
    rounded = of_alpha if format is None else _format_of(format).round(of_alpha)
    return _back(dx, values, transposed), _tensor(np.asarray(rounded, np.float32))


@quantise_backward_op.register_fake
def _(values, error, alpha, quantiser, transposed, format):
    return values.new_empty(values.shape, dtype=torch.float32), values.new_empty(1, dtype=torch.float32)


@torch.library.custom_op("quaver::scaled", mutates_args=(), device_types="cpu")
@standard_floats
def scaled_op(results: Tensor, scales: list[Tensor]) -> Tensor:
    """The results times the product of the scales, in float64, rounded once to float32."""
    scale = prod(float(each) for each in scales)
    return _tensor((_values(results).astype(np.float64) * scale).astype(np.float32))


@scaled_op.register_fake
def _(results, scales):
    return results.new_empty(results.shape, dtype=torch.float32)


quantise_op.register_kernel("cuda", quantisers_on_cuda.quantise)
quantise_backward_op.register_kernel("cuda", quantisers_on_cuda.quantise_backward)
scaled_op.register_kernel("cuda", quantisers_on_cuda.scaled)
