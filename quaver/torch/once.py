"""Backward passes that are differentiated once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

_WHY = (
    "a gradient of Quaver's was to be differentiated again, but its GEMMs and roundings take codes, which "
    "have no derivative; compute gradients of gradients (create_graph=True) in a model that is not converted"
)


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """An autograd function's `backward` whose results raise an error where they are differentiated.

    PyTorch's decorator of this name does so where the error that arrives has a gradient. Here results depend
    on weights and inputs too, and a penalty on a gradient would lose that part without a word.
    """

    @wraps(backward)
    def once(ctx: Any, *errors: Any) -> Any:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return backward(ctx, *errors)
        with torch.no_grad():
            results = backward(ctx, *errors)
        several = results if isinstance(results, tuple) else (results,)
        leaves = [None if each is None else each.detach().requires_grad_() for each in several]
        marked = torch._C._functions.DelayedError(_WHY.encode(), len(leaves))(*leaves)
        return marked if isinstance(results, tuple) else marked[0] if isinstance(marked, tuple) else marked

    return once
