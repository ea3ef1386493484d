"""Quantised layers and PACT's module: golden's quantisers, whatever PyTorch does around them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import quaver
import quaver.torch as qt
from quaver.golden.arithmetic import Bitstream
from quaver.golden.arithmetic.integer import Integer
from quaver.golden.formats import IntegerFormat, Levels, SignMagnitudeFormat
from quaver.golden.nn import recipes
from quaver.golden.nn.quantisers import Clip, DoReFaWeights, FullScale, SAWBWeights
from quaver.golden.nn.recipe import Precision, as_text
from quaver.torch import on_cuda, quantisers, quantisers_on_cuda

PACT4 = recipes.pact[4]
QUANTISERS = [
    *(Clip(k) for k in (1, 2, 4, 8)),
    *(Clip(3, 1.0, learned=False), Clip(8, 4.0, learned=False, signed=True), Clip(2, 2.0, signed=True)),
    *(DoReFaWeights(k, scaled) for k in (1, 2, 5, 8) for scaled in (False, True)),
    *(SAWBWeights(k) for k in (2, 3, 8)),
]


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(216, 12), nn.ReLU(), nn.Linear(12, 10)),
    )


@pytest.mark.parametrize("quantiser", QUANTISERS, ids=str)
def test_other_devices_have_goldens_zeros(quantiser: Any) -> None:
    text, zeros = as_text(quantiser), torch.zeros(3, 2)
    alpha = torch.ones(1) if isinstance(quantiser, Clip) and quantiser.learned else None
    found = quantisers_on_cuda.quantise(zeros, alpha, text, None, False)
    assert all(map(torch.equal, found, quantisers.quantise_op(zeros, alpha, text, None, False)))


@pytest.mark.parametrize("quantiser", QUANTISERS, ids=str)
def test_other_devices_operations_have_goldens_numbers(quantiser: Any) -> None:
    """Those that a GPU runs, here on the CPU. Elements have golden's bits; sums, their last bits apart."""
    torch.manual_seed(1)
    alpha = torch.tensor([1.25]) if isinstance(quantiser, Clip) and quantiser.learned else None
    values = torch.randn(6, 5, 2)
    values[0, 0] = torch.tensor([0.0, 1.25])
    values[1, :2] = torch.tensor([[-0.0, -1.25], [torch.inf, -torch.inf]])
    if not isinstance(quantiser, Clip):
        values.clamp_(-3, 3)
    error = torch.randn_like(values)
    text, transposed = as_text(quantiser), not isinstance(quantiser, Clip)
    found = quantisers_on_cuda.quantise(values, alpha, text, None, transposed)
    expected = quantisers.quantise_op(values, alpha, text, None, transposed)
    for one, other in zip(found[:2], expected[:2], strict=True):
        assert one.dtype == other.dtype
        assert one.equal(other)
    assert found[2].item() == pytest.approx(expected[2].item(), rel=1e-15)
    back = quantisers_on_cuda.quantise_backward(values, error, alpha, text, transposed, None)
    wanted = quantisers.quantise_backward_op(values, error, alpha, text, transposed, None)
    for one, other in zip(back, wanted, strict=True):
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=2e-6, atol=1e-7)
    with pytest.raises(ValueError, match="hold NaN, for which"):
        quantisers_on_cuda.quantise(values * torch.nan, alpha, text, None, transposed)


@pytest.mark.parametrize(
    "arithmetic",
    [
        Integer(),
        Integer.of(IntegerFormat(8), IntegerFormat(8, Levels.ODD)),
        Integer.of(IntegerFormat(8, Levels.SIGNED), IntegerFormat(8, Levels.ODD)),
        Integer.of(IntegerFormat(2), IntegerFormat(2, Levels.SIGNED), 700),
    ],
    ids=str,
)
def test_other_devices_sums_are_goldens(arithmetic: Integer) -> None:
    """K is longer than one float32 product holds of the widest, whose sums are made of pieces."""
    rng = np.random.default_rng(1)
    k = min(700, arithmetic.chunk)
    a = rng.integers(0, 1 << arithmetic.a.bits, (2, 3, k)).astype(np.uint8)
    b = rng.integers(0, 1 << arithmetic.b.bits, (2, k, 4)).astype(np.uint8)
    a[0], b[0] = (1 << arithmetic.a.bits) - 1, (1 << arithmetic.b.bits) - 1  # the largest sums
    found = on_cuda.gemm(torch.from_numpy(a), torch.from_numpy(b), as_text(arithmetic), None)
    for one, x, y in zip(found, a, b, strict=True):
        codes = arithmetic.gemm(x, y)
        assert np.array_equal(one.numpy(), codes)
        values = on_cuda.decode(one, str(arithmetic.result)).numpy()
        expected = arithmetic.result.decode(codes)
        assert values.dtype == expected.dtype
        assert np.array_equal(values, expected)
    long = torch.zeros((2, arithmetic.chunk + 1), dtype=torch.uint8)
    with pytest.raises(ValueError, match="bits hold any sum of"):
        on_cuda.gemm(long, long.T, as_text(arithmetic), None)


def test_the_first_and_the_last_layer_stay_and_hidden_ones_learn() -> None:
    net = model()
    plain = net.state_dict()
    report = qt.convert(net, PACT4)
    learns = [name for name, module in net.named_modules() if hasattr(module, "alpha")]
    assert learns == ["2", "5"]
    assert [row.why for row in report.converted] == [
        "first: float32",
        "hidden: uint4, odd4 into int21",
        "hidden: uint4, odd4 into int21",
        "last: float32",
    ]
    assert net[2].alpha.item() == 10.0
    # A plain model's state loads, and leaves alpha; its own brings it.
    with torch.no_grad():
        net[2].alpha.fill_(3.0)
    net.load_state_dict(plain)
    assert net[2].alpha.item() == 3.0
    twin = model()
    qt.convert(twin, PACT4)
    twin.load_state_dict(net.state_dict())
    assert twin[2].alpha.item() == 3.0
    x = torch.randn(2, 1, 8, 8)
    assert twin(x).equal(net(x))
    # Converted again, a layer keeps the alpha that it goes on with; other recipes have none.
    qt.convert(net, recipes.pact[2])
    assert net[2].alpha.item() == 3.0
    qt.convert(net, recipes.dorefa[2])
    assert set(net.state_dict()) == set(plain)


def test_products_are_of_integers_with_one_scale() -> None:
    """The forward GEMM by hand, from the codes that an engine is given."""
    torch.manual_seed(1)
    layer = qt.Linear(40, 3, recipe=PACT4)
    x = torch.randn(5, 40) * 4
    with torch.no_grad():
        layer.alpha.fill_(2.5)
        y = layer(x)
    codes = np.rint(np.clip(x.double().numpy(), 0, 2.5) * 15 / 2.5)
    t = np.tanh(layer.weight.detach().double().numpy())
    levels = 2 * np.rint((t / np.abs(t).max() / 2 + 0.5) * 15) - 15
    scale = (2.5 / 15) * (np.abs(t).max() / 15)
    expected = ((codes @ levels.T) * scale).astype(np.float32) + layer.bias.detach().numpy()
    assert np.array_equal(y.numpy(), expected)


def test_a_clip_of_a_models_own() -> None:
    """`PACT` is the paper's three lines: its values, its two gradients; and copies and prints as a module."""
    pact = qt.PACT(2, 3.0)
    x = torch.tensor([-1.0, 0.0, 0.4, 0.6, 2.9, 3.0, 7.0], requires_grad=True)
    y = pact(x)
    assert y.tolist() == [0, 0, 0, 1, 3, 3, 3]
    (y * torch.arange(1.0, 8.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 0, 0]
    assert pact.alpha.grad.item() == 6 + 7
    assert copy.deepcopy(pact)(x).equal(y)
    assert "clipped to 0 … α, α from 3, 2 bits" in repr(pact)
    assert list(qt.PACT(2, 3.0, learned=False).parameters()) == []
    with pytest.raises(ValueError, match="hold NaN"):
        pact(torch.tensor([torch.nan]))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_of_another_precision(kind: torch.dtype) -> None:
    """Their values are quantised, and their gradients have their dtype."""
    pact = qt.PACT(4, 3.0)
    x = torch.linspace(-2, 5, 12).to(kind).requires_grad_()
    y = pact(x)
    assert y.equal(pact(x.float()))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == kind
    assert x.grad.float().tolist() == [float(0 <= v < 3) for v in x.tolist()]


def test_alpha_is_float32_whatever_new_tensors_are() -> None:
    net = model()
    torch.set_default_dtype(torch.float64)
    try:
        qt.convert(net, PACT4)
        found = net[2].alpha.dtype, qt.PACT(4).alpha.dtype
        qt.SGD(net.parameters(), PACT4)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == (torch.float32, torch.float32)


@pytest.mark.parametrize("operator", [quantisers.quantise_op, quantisers_on_cuda.quantise])
def test_what_has_diverged_is_told(operator: Any) -> None:
    one = torch.ones(2, 2)
    for alpha in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(ValueError, match=f"α is {alpha}: the run has diverged"):
            operator(one, torch.tensor([alpha]), as_text(Clip(4)), None, False)
    with pytest.raises(ValueError, match="the run has diverged"):
        operator(one * torch.inf, None, as_text(SAWBWeights(4)), None, True)


def test_codes_that_the_way_back_takes_otherwise_are_refused() -> None:
    forward, wider = Bitstream(length=16), Bitstream(b=SignMagnitudeFormat(9), length=16)
    scale = FullScale(8)
    recipe = quaver.Recipe("wider", hidden=Precision(forward, wider, forward, scale, scale, errors=scale))
    with pytest.raises(ValueError, match="backward GEMM of the recipe wider takes weights as sm9"):
        qt.convert(nn.Linear(4, 3), recipe)


def test_what_cannot_be_quantised_is_told_before_anything_changes() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 8))
    with pytest.raises(ValueError, match="1 is a multi-head attention, which the recipe pact-4 quantises"):
        qt.convert(net, PACT4)
    assert type(net[0]) is nn.Linear
    plain = Precision()
    qt.convert(net, PACT4.replace(layers={"1": plain, "1.out_proj": plain}))
    x = torch.randn(3, 2, 8)
    assert net[1](x, x, x)[0].shape == x.shape
    torch.testing.assert_close(qt.matmul(x, x.mT, PACT4), torch.matmul(x, x.mT))


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_compiled_the_bits_and_the_graph_are_whole(backend: str) -> None:
    net = model()
    qt.convert(net, PACT4)
    twin = copy.deepcopy(net)
    x = torch.randn(2, 1, 8, 8)
    torch._dynamo.reset()
    compiled = torch.compile(twin, backend=backend, fullgraph=True)
    for one in (net, compiled):
        one(x).square().sum().backward()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert q.grad.equal(p.grad)


def test_operators_say_the_truth_about_themselves() -> None:
    x, alpha = torch.randn(3, 4), torch.tensor([1.5])
    clip, weights = as_text(Clip(4)), as_text(DoReFaWeights(4, scaled=True))
    for op, arguments in (
        (quantisers.quantise_op, (x, alpha, clip, "uint4", False)),
        (quantisers.quantise_op, (x, None, weights, None, True)),
        (quantisers.quantise_backward_op, (x, x.clone(), alpha, clip, False, None)),
        (quantisers.scaled_op, (x, [torch.tensor(0.5, dtype=torch.float64)])),
    ):
        torch.library.opcheck(op, arguments)
