"""Layers: gradients against finite differences in float64, GEMM shapes and orders, FP16 between the GEMMs."""

import numpy as np
import pytest

from quaver.golden.engine import GoldenEngine
from quaver.golden.formats import FP8, FP16
from quaver.golden.nn import layers, models, recipes
from quaver.golden.nn.layers import (
    AveragePool2d,
    BatchNorm2d,
    Chain,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Shortcut,
)
from quaver.golden.nn.loss import softmax_cross_entropy
from quaver.golden.nn.recipe import Role
from quaver.golden.nn.run import Run


class WideRun(Run):
    """The float32 recipe computed in float64, so that finite differences mean something."""

    def round(self, values):
        return np.asarray(values, np.float64)


def wide(layer):
    for inner in layer.walk():
        for p in inner.parameters().values():
            p.value = p.value.astype(np.float64)
    return layer


def rng():
    return np.random.default_rng(3)


LAYERS = {
    "linear": lambda: (Linear(7, 5, rng()), (4, 7)),
    "conv": lambda: (Conv2d(3, 4, 3, rng(), padding=1, bias=True), (2, 3, 6, 5)),
    "conv without padding": lambda: (Conv2d(2, 3, 3, rng()), (2, 2, 6, 7)),
    "conv stride 2": lambda: (Conv2d(2, 3, 3, rng(), stride=2, padding=1), (2, 2, 8, 7)),
    "conv stride 3, size 2": lambda: (Conv2d(2, 3, 2, rng(), stride=3), (2, 2, 9, 8)),
    "conv padding beyond the kernel": lambda: (Conv2d(2, 3, 2, rng(), padding=2, stride=2), (2, 2, 5, 5)),
    "conv 1x1": lambda: (Conv2d(3, 2, 1, rng(), stride=2), (2, 3, 4, 5)),
    "conv 5x5": lambda: (Conv2d(1, 2, 5, rng(), padding=2), (2, 1, 6, 6)),
    "relu": lambda: (ReLU(), (3, 4)),
    "flatten": lambda: (Flatten(), (2, 3, 2, 2)),
    "max pool": lambda: (MaxPool2d(2), (2, 2, 5, 4)),
    "average pool": lambda: (AveragePool2d(2), (2, 2, 4, 5)),
    "global average pool": lambda: (AveragePool2d(), (2, 3, 4, 5)),
    "batch norm": lambda: (BatchNorm2d(3), (4, 3, 2, 3)),
    "residual": lambda: (
        Residual(Chain(Conv2d(2, 2, 3, rng(), padding=1), BatchNorm2d(2), ReLU())),
        (3, 2, 4, 4),
    ),
    "residual with a shortcut": lambda: (
        Residual(Conv2d(2, 4, 3, rng(), stride=2, padding=1), Shortcut(2, 4, 2)),
        (2, 2, 5, 6),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_against_finite_differences(name):
    layer, shape = LAYERS[name]()
    wide(layer)
    run = WideRun(recipes.fp32, GoldenEngine())
    source = rng()
    x = source.standard_normal(shape)
    weighting = source.standard_normal(layer.forward(x, run).shape)

    def objective():
        return float((layer.forward(x, run) * weighting).sum())

    objective()
    dx = layer.backward(weighting, run)
    parameters = [p for inner in layer.walk() for p in inner.parameters().values()]
    pairs = [(x, dx)] + [(p.value, p.gradient.copy()) for p in parameters]
    assert all(v.shape == g.shape for v, g in pairs)
    for values, gradient in pairs:
        flat = values.reshape(-1)
        for i in source.permutation(flat.size)[:40]:
            kept, step = flat[i], 1e-6
            flat[i] = kept + step
            above = objective()
            flat[i] = kept - step
            below = objective()
            flat[i] = kept
            assert (above - below) / (2 * step) == pytest.approx(gradient.reshape(-1)[i], rel=1e-5, abs=1e-7)


def test_the_loss_and_its_error_against_finite_differences():
    run = WideRun(recipes.fp32, GoldenEngine())
    logits, labels = rng().standard_normal((3, 4)), np.array([1, 3, 0])
    _, error = softmax_cross_entropy(logits, labels, 1000.0, run)
    for i in np.ndindex(*logits.shape):
        moved = logits.copy()
        moved[i] += 1e-6
        above = softmax_cross_entropy(moved, labels, 1.0, run)[0]
        moved[i] -= 2e-6
        below = softmax_cross_entropy(moved, labels, 1.0, run)[0]
        assert 1000 * (above - below) / 2e-6 == pytest.approx(error[i], rel=1e-5, abs=1e-6)


def test_the_loss_of_huge_logits_is_finite():
    run = Run(recipes.fp8, GoldenEngine())
    loss, error = softmax_cross_entropy(np.array([[4e9, -4e9]], np.float32), np.array([0]), 1000.0, run)
    assert loss == 0
    assert not error.any()


def traced(layer, shape, recipe=recipes.fp8):
    calls = []
    run = Run(recipe, GoldenEngine(), trace=calls.append)
    for inner in layer.walk():
        for p in inner.parameters().values():
            p.value = FP16.round(p.value + 0.01 * rng().standard_normal(p.value.shape))
    y = layer.forward(FP16.round(rng().standard_normal(shape)), run)
    dx = layer.backward(FP16.round(rng().standard_normal(y.shape)), run)
    return calls, y, dx


def test_gemm_shapes_and_lengths_of_a_convolution():
    """K = C·size² forward, O·size² backward, B·H'·W' in the gradient (Sakr et al. 2019, §4)."""
    calls, y, dx = traced(Conv2d(3, 8, 3, rng(), stride=2, padding=1), (2, 3, 8, 6))
    assert y.shape == (2, 8, 4, 3)
    assert dx.shape == (2, 3, 8, 6)
    shapes = {call.role: (*call.operands[0].shape, call.operands[1].shape[1]) for call in calls}
    assert shapes == {
        Role.FORWARD: (8, 3 * 9, 2 * 4 * 3),
        Role.GRADIENT: (3 * 9, 2 * 4 * 3, 8),
        Role.BACKWARD: (3, 8 * 9, 2 * 8 * 6),
    }


@pytest.mark.parametrize(
    "layer_shape", [(Linear(7, 5, rng()), (4, 7)), (Conv2d(2, 3, 3, rng()), (2, 2, 5, 5))]
)
def test_first_and_last_layers_follow_the_recipe(layer_shape):
    layer, shape = layer_shape
    layer.first, layer.last = False, False
    operands = lambda: {call.role: call.rule.operand for call in traced(layer, shape)[0]}  # noqa: E731
    assert operands() == dict.fromkeys(Role, FP8)
    layer.last = True
    assert operands() == dict.fromkeys(Role, FP16)
    layer.first, layer.last = True, False
    assert operands() == {
        Role.FORWARD: FP16,
        Role.GRADIENT: FP16,
    }  # nothing before it learns: no backward GEMM
    call = traced(layer, shape)[0][0]
    a, b = (FP16.decode(codes) for codes in call.operands)
    inputs, weights = (a, b) if isinstance(layer, Linear) else (b, a)
    assert np.array_equal(weights, FP8.round(weights))
    assert not np.array_equal(inputs, FP8.round(inputs))


def test_forward_and_gradient_gemm_see_the_same_columns():
    calls, _, _ = traced(Conv2d(2, 3, 3, rng(), padding=1), (2, 2, 4, 4))
    by_role = {call.role: call for call in calls}
    assert np.array_equal(by_role[Role.FORWARD].operands[1], by_role[Role.GRADIENT].operands[0])


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in ("relu", "flatten")])
def test_everything_between_gemms_is_on_the_fp16_grid(name):
    layer, shape = LAYERS[name]()
    _, y, dx = traced(layer, shape)
    for inner in layer.walk():
        for p in inner.parameters().values():
            assert np.array_equal(p.gradient, FP16.round(p.gradient))
    assert y.dtype == dx.dtype == np.float32
    assert np.array_equal(y, FP16.round(y))
    assert np.array_equal(dx, FP16.round(dx))


def test_batch_norm_evaluates_with_running_statistics():
    layer, run = BatchNorm2d(2), Run(recipes.fp32, GoldenEngine())
    x = (rng().standard_normal((64, 2, 4, 4)) * 3 + 5).astype(np.float32)
    for _ in range(200):
        layer.forward(x, run)
    run.training = False
    y = layer.forward(x, run)
    assert abs(y.mean()) < 1e-3
    assert abs(y.std() - 1) < 1e-3


@pytest.mark.parametrize(("depth", "parameters"), [(8, 75_290), (20, 269_722), (32, 464_154)])
def test_resnets_have_the_papers_sizes(depth, parameters):
    """0.27 M and 0.46 M parameters for 20 and 32 layers (He et al. 2016, table 6)."""
    network = models.resnet(depth, (3, 32, 32), 10, rng())
    assert sum(p.value.size for p in network.all_parameters()) == parameters
    gemms = [layer for layer in network.walk() if isinstance(layer, layers.GemmLayer)]
    assert len(gemms) == depth
    assert [g.name for g in gemms if g.first or g.last] == ["conv1", "linear1"]


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_goes_forward_and_backward(name):
    network = models.build(name, (3, 32, 32) if name != "mlp" else (1, 8, 8), 10, seed=1)
    shape = (2, 3, 32, 32) if name != "mlp" else (2, 1, 8, 8)
    run = Run(recipes.fp32, GoldenEngine())
    y = network.forward(rng().standard_normal(shape).astype(np.float32), run)
    assert y.shape == (2, 10)
    network.backward(rng().standard_normal((2, 10)).astype(np.float32), run)
    assert all(p.gradient.any() for p in network.all_parameters())


def test_bad_shapes_and_names():
    run = Run(recipes.fp32, GoldenEngine())
    with pytest.raises(ValueError, match=r"takes \(batch, 3, height, width\), not \(2, 1, 4, 4\)"):
        Conv2d(3, 1, 3, rng()).forward(np.zeros((2, 1, 4, 4), np.float32), run)
    with pytest.raises(ValueError, match=r"takes \(batch, 3\), not \(2, 4\)"):
        Linear(3, 1, rng()).forward(np.zeros((2, 4), np.float32), run)
    with pytest.raises(ValueError, match="a ResNet of 18 layers, but this family has 6n"):
        models.resnet(18, (3, 32, 32), 10, rng())
    with pytest.raises(ValueError, match="the model is 'vgg', but there are mlp"):
        models.build("vgg", (1, 8, 8), 10)


def test_a_maximum_takes_the_first_largest_and_lets_nan_through():
    pool, run = MaxPool2d(2), Run(recipes.fp32, GoldenEngine())
    x = np.array([[1, 1, 2, np.nan], [1, 0, 3, 9]], np.float32)[None, None]
    assert np.array_equal(pool.forward(x, run), [[[[1, np.nan]]]], equal_nan=True)
    dx = pool.backward(np.array([[5, 7]], np.float32)[None, None], run)
    assert dx.tolist() == [[[[5, 0, 0, 7], [0, 0, 0, 0]]]]
    with pytest.raises(ValueError, match="size is 17, but the squares of a maximum are 1 … 16 wide"):
        MaxPool2d(17)


def test_relu_gives_plus_zero_below_zero_and_lets_nan_through():
    relu, run = ReLU(), Run(recipes.fp32, GoldenEngine())
    x = np.array([[-1, -0.0, 0, 2, np.nan]], np.float32)
    y = relu.forward(x, run)
    assert np.array_equal(y, [[0, 0, 0, 2, np.nan]], equal_nan=True)
    assert not np.signbit(y[0, :4]).any()
    assert np.array_equal(relu.backward(np.full_like(x, 3), run), [[0, 0, 0, 3, 3]])


def test_normalisation_in_one_pass_is_the_textbooks():
    norm, run = BatchNorm2d(2), WideRun(recipes.fp32, GoldenEngine())
    norm.scale.value, norm.shift.value = np.array([2.0, 0.5]), np.array([1.0, -3.0])
    x, error = rng().normal(100, 3, (4, 2, 3, 5)), rng().standard_normal((4, 2, 3, 5))
    y, dx = norm.forward(x, run), norm.backward(error, run)
    axes = {"axis": (0, 2, 3), "keepdims": True}
    inverse = 1 / np.sqrt(x.var(**axes) + norm.EPSILON)
    normal, scale = (x - x.mean(**axes)) * inverse, norm.scale.value[:, None, None]
    assert y == pytest.approx(normal * scale + norm.shift.value[:, None, None], abs=1e-9)
    expected = error - error.mean(**axes) - normal * (error * normal).mean(**axes)
    assert dx == pytest.approx(scale * inverse * expected, abs=1e-9)
    assert norm.scale.gradient == pytest.approx((error * normal).sum(axis=(0, 2, 3)), abs=1e-9)


def test_a_layer_in_two_places_is_refused():
    rng = np.random.default_rng(0)
    twice = layers.Linear(4, 4, rng)
    with pytest.raises(ValueError, match=r"^tied has one Linear in two places, .* for each place$"):
        models.Network("tied", twice, layers.ReLU(), twice)
    relu = layers.ReLU()
    with pytest.raises(ValueError, match=r"^tied has one ReLU in two places"):
        models.Network("tied", layers.Linear(4, 4, rng), relu, layers.Linear(4, 4, rng), relu)
    network = models.Network("tied", layers.Linear(4, 4, rng), layers.Linear(4, 4, rng))
    network.layers[1].weight = network.layers[0].weight
    with pytest.raises(ValueError, match=r"^linear2.weight of tied is linear1.weight as well, but"):
        list(network.all_parameters())
