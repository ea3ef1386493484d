"""Linear layers, convolutions and products whose three GEMMs a precision computes.

Each is PyTorch's module with another `forward`: the same parameters, names and shapes, so that a state_dict
of one loads into the other. Operands are laid out as in `quaver.golden.nn.layers`, so that stochastic
arithmetics draw the same bits and float32 products sum in the same order: a weight (N, …) is golden's (K, N),
k running over (channel, y, x), and where golden has a transposed view there is one here.

An overflow on the way back must not be lost in a cast that saturates: where the error of a layer's input is
not finite, the gradient of its weight becomes NaN, and where there is no weight that learns, the error
itself. Optimisers and gradient scalers then skip the step.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from quaver.golden.nn.quantisers import Clip
from quaver.golden.nn.recipe import Precision, Recipe
from quaver.torch.between import add_bias_op, bias_gradient_op
from quaver.torch.images import Margins, Pair, View
from quaver.torch.numerics import Numerics, Product
from quaver.torch.once import once_differentiable
from quaver.torch.quantisers import Numbers, scaled


def _draws_as(module: nn.Module) -> str:
    return "training" if module.training else "evaluation"


def _checked(product: Product, dx: Tensor, dw: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Errors and gradient; an overflow among the errors is made to stay."""
    if product.finite:
        return dx, dw
    finite = torch.isfinite(dx)
    if dw is None:
        return torch.where(finite, dx, torch.nan), None
    return dx, torch.where(finite.all(), dw, torch.nan)


def _operands(numerics: Numerics, x: Tensor, weight: Tensor, numbers: Numbers) -> tuple[Tensor, Tensor]:
    """What the forward GEMM takes: codes, or float32 values."""
    casts = numerics.forward.casts
    return (
        casts[0](x) if numbers.inputs is None else numbers.inputs,
        casts[1](weight) if numbers.weights is None else numbers.weights,
    )


def _kept(numerics: Numerics, x: Tensor, inputs: Tensor, numbers: Numbers) -> Tensor:
    """What the gradient GEMM takes, for which the forward GEMM took `inputs`."""
    if numbers.inputs is not None and numerics.gradient.scaled:
        return inputs
    again = numerics.gradient.casts[0]
    return inputs if numbers.inputs is None and again == numerics.forward.casts[0] else again(x)


def _keep(ctx: Any, numerics: Numerics, x: Tensor, weight: Tensor, inputs: Tensor, numbers: Numbers) -> None:
    """Inputs as the gradient GEMM takes them, and weights as `_cast_weight` does."""
    ctx.numerics, ctx.input_scales, ctx.weight_scales = numerics, (), ()
    if numerics.gradient.scaled:
        ctx.input_scales = numbers.input_scales
    if numerics.backward.scaled and numbers.weights is not None:
        weight, ctx.weight_scales = numbers.weights, numbers.weight_scales
    ctx.save_for_backward(_kept(numerics, x, inputs, numbers), weight)


def _cast_weight(ctx: Any, weight: Tensor) -> Tensor:
    """What the backward GEMM takes: the kept codes, or a cast of the kept values."""
    return weight if ctx.weight_scales else ctx.numerics.backward.casts[1](weight)


class _Linear(torch.autograd.Function):
    """x (B, K), weight (N, K), bias (N,) or None → (B, N)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        numbers: Numbers,
        numerics: Numerics,
        draws_as: str,
    ) -> Tensor:
        inputs, kernel = _operands(numerics, x, weight, numbers)
        y = numbers.scaled(numerics.forward(inputs, kernel.T.contiguous(), draws_as))
        _keep(ctx, numerics, x, weight, inputs, numbers)
        ctx.draws_as = draws_as
        return y if bias is None else add_bias_op(y, bias, numerics.elementwise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        n, draws_as = ctx.numerics, ctx.draws_as
        error = n.arrived(error.contiguous())
        dx = dw = db = None
        if ctx.needs_input_grad[1]:
            errors, scales = n.gradient.cast_errors(error, 1)
            dw = scaled(n.gradient(inputs.T, errors, draws_as), ctx.input_scales + scales).T
        if ctx.needs_input_grad[2]:
            db = bias_gradient_op(error, n.elementwise)
        if ctx.needs_input_grad[0]:
            errors, scales = n.backward.cast_errors(error, 0)
            dx = n.backward(errors, _cast_weight(ctx, weight).T.contiguous().T, draws_as)
            dx = scaled(dx, scales + ctx.weight_scales)
            dx, dw = _checked(n.backward, dx, dw)
        return dx, dw, db, None, None, None


class _Matmul(torch.autograd.Function):
    """a (batch, M, K) · b (batch, K, N); a is cast as inputs are, b as weights."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, numerics: Numerics, draws_as: str) -> Tensor:
        casts = numerics.forward.casts
        ctx.save_for_backward(a, b)
        ctx.numerics, ctx.draws_as = numerics, draws_as
        return numerics.forward(casts[0](a), casts[1](b), draws_as)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        n, draws_as = ctx.numerics, ctx.draws_as
        error = n.arrived(error.contiguous())
        da = db = None
        if ctx.needs_input_grad[1]:
            casts = n.gradient.casts
            db = n.gradient(casts[0](a).mT, casts[1](error), draws_as)
        if ctx.needs_input_grad[0]:
            casts = n.backward.casts
            da, _ = _checked(n.backward, n.backward(casts[0](error), casts[1](b).mT, draws_as), None)
        return da, db, None, None


class _Convolution(torch.autograd.Function):
    """x (B, C, H, W), weight (O, C / groups, h, w), bias (O,) or None → (B, O, H', W').

    im2col as in `quaver.golden.nn.layers.Conv2d`, group by group: a batch of GEMMs where there are several.
    On CUDA the columns are in no memory: the GEMM's loader takes codes from the images.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        numbers: Numbers,
        numerics: Numerics,
        draws_as: str,
        stride: Pair,
        margins: Margins,
        dilation: Pair,
        groups: int,
    ) -> Tensor:
        size = (weight.shape[2], weight.shape[3])
        inputs, kernel = _operands(numerics, x, weight, numbers)
        view = View.forward(inputs.shape, size, stride, margins, dilation)
        shape = groups, weight.shape[0] // groups, prod(weight.shape[1:])
        kernel = kernel.reshape(shape).mT.contiguous().mT
        y = numerics.forward.with_images(kernel, inputs, view, draws_as)
        y = y.reshape(weight.shape[0], len(x), *view.places).transpose(0, 1)
        y = numbers.scaled(y.contiguous())
        _keep(ctx, numerics, x, weight, inputs, numbers)
        ctx.draws_as = draws_as
        ctx.view, ctx.groups = view, groups
        return y if bias is None else add_bias_op(y, bias, numerics.elementwise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        n, draws_as, view, groups = ctx.numerics, ctx.draws_as, ctx.view, ctx.groups
        outputs = weight.shape[0] // groups
        error = n.arrived(error.contiguous())
        dx = dw = db = None
        if ctx.needs_input_grad[1]:
            errors, scales = n.gradient.cast_errors(error, 1)
            errors = errors.transpose(0, 1)
            errors = errors.reshape(groups, outputs, len(inputs) * prod(view.places)).mT.contiguous()
            dw = n.gradient.with_images(errors, inputs, view, draws_as, first=True).mT.reshape(weight.shape)
            dw = scaled(dw, ctx.input_scales + scales)
        if ctx.needs_input_grad[2]:
            db = bias_gradient_op(error, n.elementwise)
        if ctx.needs_input_grad[0]:
            errors, scales = n.backward.cast_errors(error, 0)
            kernel = _cast_weight(ctx, weight.flip(2, 3)).reshape(groups, outputs, *weight.shape[1:])
            kernel = kernel.transpose(1, 2).reshape(groups, weight.shape[1], outputs * prod(view.size))
            back = view.mirrored(inputs.shape)
            dx = scaled(n.backward.with_images(kernel, errors, back, draws_as), scales + ctx.weight_scales)
            dx = dx.reshape(inputs.shape[1], len(inputs), *back.places).transpose(0, 1).contiguous()
            dx, dw = _checked(n.backward, dx, dw)
        return dx, dw, db, None, None, None, None, None, None, None


def matmul(a: Tensor, b: Tensor, how: Numerics | Recipe, *, training: bool = True) -> Tensor:
    """A·B of values (…, M, K) and (…, K, N), batch axes broadcast as ``torch.matmul``'s: for attention.

    `how` is a recipe (its `hidden` precision: a is cast as inputs are, b as weights; float32 where that is
    quantised) or a layer's `numerics`.
    A stochastic arithmetic takes one seed for all products of the batch.
    """
    numerics = Numerics.between(how) if isinstance(how, Recipe) else how
    draws_as = "training" if training else "evaluation"
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(
            f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}, but a product takes (…, M, K) and "
            f"(…, K, N)"
        )
    if a.ndim == b.ndim == 2:
        return _Matmul.apply(a, b, numerics, draws_as)
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left, right = (x.expand(*batch, *x.shape[-2:]).reshape(prod(batch), *x.shape[-2:]) for x in (a, b))
    return _Matmul.apply(left, right, numerics, draws_as).reshape(*batch, a.shape[-2], b.shape[-1])


class GemmLayer(nn.Module):
    """What the layers share: how they compute. `set_precision` comes after PyTorch's constructor, or after
    `quaver.torch.convert` has made a module of PyTorch's one of these.

    A layer that learns where to clip its inputs has a parameter `alpha`, (1,), and no other layer has it.
    """

    numerics: Numerics

    def set_precision(self, recipe: Recipe, precision: Precision | None = None) -> None:
        """Compute in `precision`; that of the recipe's hidden layers when left out.

        An α that the layer has stays if it goes on learning one, and goes if it does not.
        """
        precision = recipe.hidden if precision is None else precision
        self.numerics = Numerics.of(recipe, precision)
        clip = precision.inputs
        if not (isinstance(clip, Clip) and clip.learned):
            self._parameters.pop("alpha", None)
        elif self._alpha is None:
            weight = next(self.parameters(recurse=False))
            start = torch.full((1,), float(clip.alpha), dtype=torch.float32, device=weight.device)
            self.alpha = nn.Parameter(start)

    @property
    def _alpha(self) -> Tensor | None:
        return self._parameters.get("alpha")

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """PyTorch's, which calls it; without an α, as of a plain model, α stays what it is."""
        if self._alpha is not None:
            state_dict.setdefault(f"{prefix}alpha", self._alpha.detach().clone())
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Linear(GemmLayer, nn.Linear):
    """``torch.nn.Linear``, (…, in_features) → (…, out_features), with GEMMs in a recipe's arithmetic.

    Linear(in_features, out_features, bias=True, *, recipe, precision=None): `precision` is that of the
    recipe's hidden layers when left out.
    """

    def __init__(
        self, *args: Any, recipe: Recipe, precision: Precision | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.set_precision(recipe, precision)

    def forward(self, input: Tensor) -> Tensor:
        if not input.ndim or input.shape[-1] != self.in_features:
            raise ValueError(f"input has shape {tuple(input.shape)}, but it must be (…, {self.in_features})")
        flat = input.reshape(prod(input.shape[:-1]), self.in_features)
        x, weight, numbers = self.numerics.quantised(flat, self.weight, self._alpha)
        y = _Linear.apply(x, weight, self.bias, numbers, self.numerics, _draws_as(self))
        return y.reshape(*input.shape[:-1], self.out_features)


class _ConvolutionLayer(GemmLayer):
    """The two convolutions: everything but the number of axes."""

    def __init__(
        self, *args: Any, recipe: Recipe, precision: Precision | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.set_precision(recipe, precision)

    def forward(self, input: Tensor) -> Tensor:
        axes = len(self.kernel_size)
        channels = input.shape[-1 - axes] if input.ndim > axes else None
        if input.ndim not in (axes + 1, axes + 2) or channels != self.in_channels:
            wanted = ", ".join((f"{self.in_channels}", *("height", "width")[2 - axes :]))
            raise ValueError(f"input has shape {tuple(input.shape)}, but it must be (batch, {wanted})")
        x = input if input.ndim == axes + 2 else input[None]
        margins = self._margins()
        if self.padding_mode != "zeros":
            x, margins = functional.pad(x, margins, mode=self.padding_mode), (0,) * (2 * axes)
        weight, stride, dilation = self.weight, self.stride, self.dilation
        for axis, (n, kernel) in enumerate(zip(x.shape[2:], self.kernel_size, strict=True)):
            before, after = margins[2 * (axes - 1 - axis) : 2 * (axes - axis)]
            if n + before + after <= dilation[axis] * (kernel - 1):
                raise ValueError(
                    f"input has shape {tuple(input.shape)} and the padding {before} + {after}, but a kernel "
                    f"of {kernel} with dilation {dilation[axis]} reaches further"
                )
        if axes == 1:
            x, weight = x[:, :, None], weight[:, :, None]
            stride, dilation, margins = (1, *stride), (1, *dilation), (*margins, 0, 0)
        place = tuple(stride), tuple(margins), tuple(dilation), self.groups
        x, weight, numbers = self.numerics.quantised(x, weight, self._alpha)
        y = _Convolution.apply(x, weight, self.bias, numbers, self.numerics, _draws_as(self), *place)
        y = y[:, :, 0] if axes == 1 else y
        return y if input.ndim == axes + 2 else y[0]

    def _margins(self) -> tuple[int, ...]:
        """The padding of each side, the last axis first, as `functional.pad` takes it."""
        if isinstance(self.padding, str):
            return tuple(self._reversed_padding_repeated_twice)
        return tuple(n for padding in reversed(self.padding) for n in (padding, padding))


class Conv1d(_ConvolutionLayer, nn.Conv1d):
    """``torch.nn.Conv1d``, (batch, C, L) → (batch, O, L'), with GEMMs in a recipe's arithmetic.

    PyTorch's arguments, and recipe, precision=None as of `Linear`.
    """


class Conv2d(_ConvolutionLayer, nn.Conv2d):
    """``torch.nn.Conv2d``, (batch, C, H, W) → (batch, O, H', W'), with GEMMs in a recipe's arithmetic.

    PyTorch's arguments, and recipe, precision=None as of `Linear`.
    """
