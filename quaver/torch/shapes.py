"""The GEMMs of a model of PyTorch's: what `quaver plan` makes its plans of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quaver.golden.planning.networks import LayerShape, NetworkShape

_WITH_GEMMS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.MultiheadAttention)


def shapes(
    model: nn.Module, example_input: Tensor | tuple[Any, ...], *, name: str = "", batch: int | None = None
) -> NetworkShape:
    """The shapes of a model's GEMMs, in the order in which one forward pass on `example_input` runs them.

    Parameters
    ----------
    model
        Left as it is: the pass is an evaluation without gradients.
    example_input
        One batch (its first axis is counted as images), or a tuple of the arguments of ``model.forward``.
    name
        Of the network; the model's class when left out.
    batch
        Images of one training step; those of the example when left out.

    Returns
    -------
    NetworkShape
        What `quaver.plan` takes. Layers have their names in the model, so that ``convert(model,
        planned(recipe, plan(shapes(model, x))))`` computes as planned. The three projections of a
        multi-head attention are alike and one row; products between tokens have no weights, and none.

    Raises
    ------
    ValueError
        The pass runs no linear layer and no convolution.
    """
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    images = max(1, inputs[0].shape[0])
    found = [_shape(layer, module, positions / images) for layer, module, positions in _calls(model, inputs)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} runs no linear layer and no convolution, so that there is nothing to "
            f"plan"
        )
    return NetworkShape(name or type(model).__name__, tuple(found), batch or images)


def _shape(name: str, module: nn.Module, positions: float) -> LayerShape:
    count = max(1, round(positions))
    if isinstance(module, nn.MultiheadAttention):
        return LayerShape(name, module.embed_dim, module.embed_dim, positions=count)
    if isinstance(module, nn.Linear):
        return LayerShape(name, module.in_features, module.out_features, positions=count)
    taps = math.prod(module.kernel_size)
    return LayerShape(name, module.in_channels, module.out_channels, taps, count, module.groups)


def run_order(model: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    """The names of the layers with GEMMs in the order in which a pass runs them."""
    return [name for name, _, _ in _calls(model, inputs)]


def _calls(model: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[str, nn.Module, int]]:
    """Of each layer with GEMMs: its name, itself, and how many outputs it made for each output channel; of
    one that runs twice, the larger run's."""
    calls: dict[str, tuple[nn.Module, int]] = {}

    def before(name: str) -> Any:
        return lambda module, args: calls.setdefault(name, (module, 0)) and None

    def after(name: str) -> Any:
        def called(module: nn.Module, args: Any, output: Any) -> None:
            result = output[0] if isinstance(output, tuple) else output
            channels = getattr(module, "out_features", None) or getattr(module, "out_channels", None)
            count = result.numel() // (channels or module.embed_dim)
            calls[name] = module, max(count, calls[name][1])
            if isinstance(module, nn.MultiheadAttention):  # PyTorch's does not call its own part
                calls.setdefault(f"{name}.out_proj", (module.out_proj, count))

        return called

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, _WITH_GEMMS)]
    hooks = [module.register_forward_pre_hook(before(name)) for name, module in layers]
    hooks += [module.register_forward_hook(after(name)) for name, module in layers]
    try:
        with torch.no_grad(), _evaluating(model):
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [(name, module, count) for name, (module, count) in calls.items()]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
