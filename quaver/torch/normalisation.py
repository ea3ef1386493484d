"""Batch normalisation as the golden model computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quaver.golden.nn.recipe import Recipe
from quaver.torch.between import (
    batch_norm_backward_op,
    batch_norm_op,
    batch_statistics_op,
    rounded_op,
    running_statistics_op,
)
from quaver.torch.functions import format_name
from quaver.torch.numerics import arriving
from quaver.torch.once import once_differentiable


class _BatchNorm(torch.autograd.Function):
    """x (batch, C, …) normalised by `statistics`: its own, or others that were given."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        statistics: Tensor,
        epsilon: float,
        of_batch: bool,
        format: str | None,
        arriving: str | None,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, statistics)
        ctx.epsilon, ctx.of_batch, ctx.format, ctx.arriving = epsilon, of_batch, format, arriving
        return batch_norm_op(x, scale, shift, statistics, epsilon, format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        how = ctx.epsilon, ctx.of_batch, ctx.format
        gradients = batch_norm_backward_op(rounded_op(error, ctx.arriving), *ctx.saved_tensors, *how)
        return *gradients, None, None, None, None, None


class _BatchNormLayer(nn.Module):
    """What the three have in common: everything."""

    format: str | None
    arriving: str | None

    def set_format(self, recipe: Recipe) -> None:
        """Round to the recipe's `elementwise` format."""
        self.format = None if recipe.elementwise is None else format_name(recipe.elementwise)
        self.arriving = arriving(recipe)

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        of_batch = self.training or self.running_mean is None
        if of_batch:
            statistics = self._statistics(input.detach())
        else:
            statistics = torch.stack([self.running_mean, self.running_var]).double()
        channels = input.new_ones(input.shape[1])
        scale = channels if self.weight is None else self.weight
        shift = torch.zeros_like(channels) if self.bias is None else self.bias
        how = self.eps, of_batch, self.format, self.arriving
        return _BatchNorm.apply(input, scale, shift, statistics, *how)

    @torch.no_grad()
    def _statistics(self, x: Tensor) -> Tensor:
        """Those of x; the running ones follow."""
        count = x.numel() // x.shape[1]
        if self.training and count < 2:
            raise ValueError(
                f"input has shape {tuple(x.shape)}, fewer than two values a channel, but training needs "
                f"their variance; take a larger batch"
            )
        statistics = batch_statistics_op(x)
        if self.training and self.running_mean is not None:
            self.num_batches_tracked.add_(1)
            running = torch.stack([self.running_mean, self.running_var])
            how = self.momentum, self.num_batches_tracked
            new = running_statistics_op(running, statistics, count, *how)
            self.running_mean.copy_(new[0])
            self.running_var.copy_(new[1])
        return statistics


class BatchNorm1d(_BatchNormLayer, nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` with wide sums and results rounded once; `quaver.torch.convert` makes it.

    Its running statistics stay in float32. A forward pass whose statistics are not finite leaves them; one of
    a step that the optimiser skips does not, as in PyTorch.
    """


class BatchNorm2d(_BatchNormLayer, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d``; see `BatchNorm1d`."""


class BatchNorm3d(_BatchNormLayer, nn.BatchNorm3d):
    """``torch.nn.BatchNorm3d``; see `BatchNorm1d`."""
