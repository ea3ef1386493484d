"""Layers: their geometry against PyTorch's own, their GEMMs against golden's arithmetic."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import quaver
import quaver.torch as qt
from quaver.golden.nn import recipes
from quaver.torch import layers

FP8 = recipes.fp8
STOCHASTIC = FP8.with_gemms("fp8-stochastic", rounding="stochastic")

CONVOLUTIONS: list[tuple[int, dict[str, Any], tuple[int, ...]]] = [
    (2, dict(kernel_size=3), (7, 8)),
    (2, dict(kernel_size=3, padding=1, stride=2), (7, 8)),
    (2, dict(kernel_size=(3, 2), stride=(2, 3), padding=(2, 1), dilation=(2, 1)), (9, 11)),
    (2, dict(kernel_size=1, stride=2), (6, 6)),
    (2, dict(kernel_size=1, padding=2), (3, 4)),
    (2, dict(kernel_size=3, groups=2, padding=1), (5, 6)),
    (2, dict(kernel_size=3, groups=4, padding=2, stride=3, bias=False), (8, 7)),
    (2, dict(kernel_size=(2, 3), padding="same"), (5, 6)),
    (2, dict(kernel_size=4, padding="same", dilation=2), (9, 8)),
    (2, dict(kernel_size=3, padding="valid"), (5, 6)),
    (2, dict(kernel_size=3, padding=1, padding_mode="reflect"), (5, 6)),
    (2, dict(kernel_size=3, padding=(1, 2), padding_mode="circular", stride=2), (6, 5)),
    (2, dict(kernel_size=3, stride=4, padding=1), (10, 6)),
    (1, dict(kernel_size=5, padding=2), (11,)),
    (1, dict(kernel_size=3, stride=2, dilation=3, groups=2), (13,)),
    (1, dict(kernel_size=3, padding="same", padding_mode="replicate"), (9,)),
]


@pytest.mark.parametrize(("axes", "options", "size"), CONVOLUTIONS)
def test_a_convolution_is_pytorchs_in_float32(
    axes: int, options: dict[str, Any], size: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    theirs = (nn.Conv1d, nn.Conv2d)[axes - 1](4, 8, **options)
    mine = (qt.Conv1d, qt.Conv2d)[axes - 1](4, 8, **options, recipe=recipes.fp32)
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 4, *size)
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = mine(inputs[0]), theirs(inputs[1])
    assert torch.allclose(y, expected, atol=1e-5)
    error = torch.randn_like(y)
    y.backward(error)
    expected.backward(error)
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-5)
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-4)
    assert torch.allclose(mine(x[0]), y[0], atol=1e-5)  # without a batch


def test_groups_are_convolutions_of_their_own() -> None:
    torch.manual_seed(1)
    whole = qt.Conv2d(4, 6, 3, padding=1, groups=2, recipe=FP8)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    error = torch.randn(2, 6, 5, 5)
    y = whole(x)
    y.backward(error)
    for g in range(2):
        part = qt.Conv2d(2, 3, 3, padding=1, recipe=FP8)
        outputs, inputs = slice(3 * g, 3 * g + 3), slice(2 * g, 2 * g + 2)
        part.load_state_dict({name: p[outputs] for name, p in whole.state_dict().items()})
        z = x[:, inputs].detach().requires_grad_()
        assert part(z).equal(y[:, outputs])
        part(z).backward(error[:, outputs])
        assert z.grad.equal(x.grad[:, inputs])
        assert part.weight.grad.equal(whole.weight.grad[outputs])


def test_a_linear_layer_is_three_of_the_arithmetics_gemms() -> None:
    torch.manual_seed(1)
    layer = qt.Linear(70, 9, recipe=FP8)
    x = torch.randn(2, 5, 70, requires_grad=True)
    error = 1e-3 * torch.randn(2, 5, 9)
    y = layer(x)
    y.backward(error)
    fp8, fp16, gemm = quaver.FP8, quaver.FP16, quaver.ChunkedFloat().gemm
    a, w = fp8.encode(x.detach().numpy().reshape(10, 70)), fp8.encode(layer.weight.detach().numpy())
    e = fp8.encode(fp16.round(error.numpy().reshape(10, 9)))
    bias = layer.bias.detach().numpy()
    assert np.array_equal(y.detach().numpy().reshape(10, 9), fp16.round(fp16.decode(gemm(a, w.T)) + bias))
    assert np.array_equal(x.grad.numpy().reshape(10, 70), fp16.decode(gemm(e, w)))
    assert np.array_equal(layer.weight.grad.numpy(), fp16.decode(gemm(a.T, e)).T)
    total = fp16.round(error.numpy().reshape(10, 9)).sum(axis=0, dtype=np.float64)
    assert np.array_equal(layer.bias.grad.numpy(), fp16.round(total))


@pytest.mark.parametrize(
    ("a", "b"), [((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (6, 4, 5)), ((3, 4), (2, 4, 5))]
)
def test_products_broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    x, y = torch.randn(a, requires_grad=True), torch.randn(b, requires_grad=True)
    c = qt.matmul(x, y, recipes.fp32)
    expected = torch.matmul(x, y)
    assert torch.allclose(c, expected, atol=1e-5)
    error = torch.randn_like(c)
    for mine, theirs in zip(*(torch.autograd.grad(z, (x, y), error) for z in (c, expected)), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_stochastic_gemms_follow_the_seed() -> None:
    torch.manual_seed(1)
    layer, x = qt.Linear(300, 9, recipe=STOCHASTIC), torch.randn(4, 300)
    with qt.seeded(1):
        first, second = layer(x), layer(x)
    with qt.seeded(1):
        assert layer(x).equal(first)
        layer.eval()(x)  # an evaluation between them
        assert layer.train()(x).equal(second)
    assert not first.equal(second)


@pytest.mark.parametrize("learns", [True, False])
def test_an_overflow_on_the_way_back_is_not_lost(learns: bool) -> None:
    layer = qt.Linear(4, 4, bias=False, recipe=FP8)
    with torch.no_grad():
        layer.weight.fill_(30_000.0)
    layer.weight.requires_grad_(learns)
    x = torch.ones(2, 4, requires_grad=True)
    layer(x).backward(torch.full((2, 4), 50_000.0))
    assert x.grad is not None
    assert not torch.isfinite(x.grad).all()
    if learns:
        assert torch.isnan(layer.weight.grad).all()
    else:
        assert torch.isnan(x.grad).all()  # a NaN survives the next cast, infinity would not


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: qt.Linear(4, 2, recipe=FP8)(torch.ones(2, 5)), r"\(2, 5\).*…, 4"),
        (lambda: qt.Linear(4, 2, recipe=FP8)(torch.tensor(1.0)), r"…, 4"),
        (lambda: qt.Conv2d(4, 2, 3, recipe=FP8)(torch.ones(2, 3, 5, 5)), "4, height, width"),
        (lambda: qt.Conv2d(4, 2, 3, recipe=FP8)(torch.ones(2, 4, 2, 5)), "kernel of 3"),
        (lambda: qt.Conv1d(4, 2, 3, recipe=FP8)(torch.ones(4)), "4, width"),
        (lambda: qt.matmul(torch.ones(2, 3), torch.ones(2, 3), FP8), "takes"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_nan_and_infinity_as_in_golden() -> None:
    layer = qt.Linear(2, 1, bias=False, recipe=FP8)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    y = layer(torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0], [-torch.inf, torch.inf]]))
    assert torch.isnan(y[0, 0])
    largest = quaver.FP8.max_value  # FP8 saturates
    assert y[1:, 0].tolist() == [quaver.FP16.round(largest + 1.0), 0.0]


def test_layers_are_pytorchs_classes() -> None:
    assert isinstance(qt.Linear(2, 2, recipe=FP8), nn.Linear)
    assert issubclass(qt.Conv2d, nn.Conv2d)
    assert issubclass(layers.Conv1d, nn.Conv1d)


def _penalty(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return gradient.square().sum()


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(4, 1),
        nn.Sequential(nn.Linear(4, 4), nn.Tanh()),
        nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 2, 1)),
        nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)),
        nn.Sequential(nn.Linear(4, 4), nn.Flatten(), nn.Linear(4, 1)),
    ],
)
@pytest.mark.parametrize("recipe", [FP8, recipes.pact_everywhere[4], recipes.fp32], ids=lambda r: r.name)
def test_a_gradients_gradient_is_refused_and_not_lost(model: nn.Module, recipe: quaver.Recipe) -> None:
    model = copy.deepcopy(model)
    qt.convert(model, recipe)
    x = torch.randn(3, 4)
    model(x).sum().backward(create_graph=True)  # by itself it does no harm
    with pytest.raises(RuntimeError, match="take codes, which have no derivative"):
        _penalty(model, x).backward()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Linear(0, 3), (2, 0)),
        (lambda: nn.Linear(3, 0), (2, 3)),
        (nn.Linear(4, 3), (2, 0, 4)),
        (nn.Conv2d(4, 6, 3, groups=2), (0, 4, 5, 5)),
        (nn.Conv1d(4, 6, 3), (0, 4, 5)),
        (nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).eval(), (0, 4, 5, 5)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 0, 8)),
        (nn.TransformerEncoderLayer(8, 2, 16), (5, 0, 8)),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else type(value).__name__,
)
@pytest.mark.parametrize("recipe", [FP8, STOCHASTIC, recipes.fp32], ids=lambda r: r.name)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_tensors_of_no_elements(layer: Any, shape: tuple[int, ...], recipe: quaver.Recipe) -> None:
    layer = layer if isinstance(layer, nn.Module) else layer()
    mine, x = copy.deepcopy(layer), torch.ones(shape, requires_grad=True)
    qt.convert(mine, recipe)
    y, expected = mine(x), layer(torch.ones(shape))
    assert y.shape == expected.shape
    assert torch.allclose(y, expected, atol=0.1)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert all(torch.isfinite(p.grad).all() for p in mine.parameters())
