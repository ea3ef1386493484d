"""Softmax cross-entropy as the golden model computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quaver.golden.nn.recipe import Recipe
from quaver.torch.between import cross_entropy_error_op, cross_entropy_op
from quaver.torch.functions import format_name
from quaver.torch.once import once_differentiable


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, format: str | None) -> Tensor:
        ctx.save_for_backward(logits, labels)
        ctx.format = format
        return cross_entropy_op(logits, labels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None]:
        return cross_entropy_error_op(*ctx.saved_tensors, scale, ctx.format), None, None


def cross_entropy(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """The mean loss of `logits` (batch, classes) for integer `labels` (batch,): a float64 scalar.

    Computed in float64; the error is multiplied by the loss scale, which is the gradient that arrives here,
    before it is rounded, once, to the recipe's `elementwise` format. The loss itself is never rounded.

    ``torch.nn.CrossEntropyLoss`` will do as well: it computes in float32, and its error is rounded where it
    enters the last layer.
    """
    return _CrossEntropy.apply(
        logits, labels, None if recipe.elementwise is None else format_name(recipe.elementwise)
    )


class CrossEntropyLoss(nn.Module):
    """`cross_entropy` as a module."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, self.recipe)
