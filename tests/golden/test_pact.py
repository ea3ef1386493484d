"""PACT and its weights: every quantiser against its formula in fractions, gradients, layers, runs."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from quaver.golden import data
from quaver.golden.arithmetic import ChunkedFloat, Integer
from quaver.golden.engine import GoldenEngine
from quaver.golden.formats import FP8, IntegerFormat, Levels
from quaver.golden.nn import checkpoint, metrics, models, recipes
from quaver.golden.nn.layers import Conv2d, GemmLayer, Linear
from quaver.golden.nn.learners import Exchange
from quaver.golden.nn.metrics import MetricsFile
from quaver.golden.nn.quantisers import LEAST_ALPHA, Clip, DoReFaWeights, Quantiser, SAWBWeights
from quaver.golden.nn.recipe import Precision, Recipe
from quaver.golden.nn.run import Run
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Step, Trainer

BITS = (1, 2, 3, 4, 5, 8)
QUANTISERS: dict[str, Quantiser] = {
    **{f"clip {k}": Clip(k) for k in BITS},
    **{f"signed clip {k}": Clip(k, 4.0, learned=False, signed=True) for k in BITS[1:]},
    **{f"dorefa {k}": DoReFaWeights(k) for k in BITS},
    "dorefa scaled": DoReFaWeights(4, scaled=True),
    **{f"sawb {k}": SAWBWeights(k) for k in SAWBWeights.CONSTANTS},
}
ALPHA = float(np.float32(2.7))


def some(count: int = 200, spread: float = 1.5) -> np.ndarray:
    return np.random.default_rng(5).normal(0, spread, count).astype(np.float32)


def rounded(x: Fraction) -> int:
    """To nearest, ties to even."""
    return round(x)


@pytest.mark.parametrize("k", BITS)
def test_pact_is_its_formula(k: int) -> None:
    """y = 0.5(|x| − |x − α| + α), and round(y·(2^k − 1)/α) of α/(2^k − 1) each: in fractions."""
    alpha, n = Fraction(ALPHA), 2**k - 1
    x = np.concatenate([some(), np.float32([0, -0.0, ALPHA, 1e30, -1e30, np.inf, -np.inf])])
    found = Clip(k).quantise(x, ALPHA)
    for value, code, quantised in zip(x.tolist(), found.codes.tolist(), found.values.tolist(), strict=True):
        v = Fraction(value) if np.isfinite(value) else Fraction(10) ** 40 * (1 if value > 0 else -1)
        y = (abs(v) - abs(v - alpha) + alpha) / 2
        assert y == min(max(v, Fraction(0)), alpha)
        assert code == rounded(y * n / alpha)
        assert quantised == float(np.float32(float(code * alpha / n)))


@pytest.mark.parametrize("k", BITS)
def test_dorefa_is_its_formula(k: int) -> None:
    w, n = some(), 2**k - 1
    t = [Fraction(float(v)) for v in np.tanh(w.astype(np.float64))]
    largest = max(map(abs, t))
    levels = [2 * Fraction(rounded((v / (2 * largest) + Fraction(1, 2)) * n), n) - 1 for v in t]
    for scaled, end in ((False, Fraction(1)), (True, largest)):
        found = DoReFaWeights(k, scaled).quantise(w, 0)
        assert found.format == IntegerFormat(k, Levels.ODD)
        assert found.values.tolist() == [float(np.float32(float(v * end))) for v in levels]
    assert {abs(int(v)) for v in found.format.integers(found.codes)} <= set(range(1, 2**k, 2))
    assert len(set(found.codes.tolist())) == min(2**k, len(set(levels)))


@pytest.mark.parametrize("k", SAWBWeights.CONSTANTS)
def test_sawb_is_its_formula(k: int) -> None:
    w, n = some(), 2**k - 1
    c1, c2 = SAWBWeights.CONSTANTS[k]
    wide = w.astype(np.float64)
    end = c1 * float(np.sqrt((wide**2).mean())) + c2 * float(np.abs(wide).mean())
    assert SAWBWeights(k).clip(w) == pytest.approx(end, rel=1e-12)
    steps = [rounded((min(max(Fraction(v) / Fraction(end), -1), 1) / 2 + Fraction(1, 2)) * n) for v in wide]
    assert SAWBWeights(k).quantise(w, 0).codes.tolist() == steps


def test_sawb_of_weights_that_are_all_alike() -> None:
    """c1 + c2 < 0 at 8 bits: α_w would be negative."""
    w = np.full(10, -0.25, np.float32)
    assert SAWBWeights(8).clip(w) == 0.25
    assert SAWBWeights(8).quantise(w, 0).values.tolist() == w.tolist()


@pytest.mark.parametrize("quantiser", [DoReFaWeights(4, scaled=True), SAWBWeights(4)], ids=str)
def test_weights_that_are_all_zero_stay_so(quantiser: Quantiser) -> None:
    """No level is 0, but the scale is: a layer that begins with zeros gives none but zeros."""
    w = np.zeros((3, 2), np.float32)
    assert not quantiser.quantise(w, 0).values.any()
    error = np.ones_like(w)
    assert np.array_equal(quantiser.backward(w, error, 0)[0], error)


def test_sawb_s_error_passes_up_to_its_clip_and_not_to_the_float32_above_it() -> None:
    for seed in range(40):
        w = np.random.default_rng(seed).normal(size=300).astype(np.float32)
        for _ in range(40):  # to the weight that is α_w of these, rounded to float32
            w[0] = SAWBWeights(2).clip(w)
        end = SAWBWeights(2).clip(w)
        passed = SAWBWeights(2).backward(w, np.ones_like(w), 0)[0]
        assert np.array_equal(passed == 1, np.abs(w.astype(np.float64)) <= end)


@pytest.mark.parametrize("name", QUANTISERS)
def test_gradients_against_finite_differences_without_rounding(name: str) -> None:
    quantiser, rng = QUANTISERS[name], np.random.default_rng(2)
    x, error = some().astype(np.float64), rng.normal(size=200)
    of_x, of_alpha = quantiser.backward(x, error, ALPHA)

    def objective(alpha: float = ALPHA) -> float:
        return float((quantiser.surrogate(x, alpha) * error).sum())

    moved = [*range(0, 200, 7), int(np.abs(x).argmax())]
    if isinstance(quantiser, SAWBWeights):  # its range is a constant in the backward pass
        end = quantiser.clip(x)
        assert np.array_equal(of_x, np.where(np.abs(x) <= end, error, 0))
        moved = []
    for i in moved:
        kept, step = x[i], 1e-6
        x[i] = kept + step
        above = objective()
        x[i] = kept - step
        below = objective()
        x[i] = kept
        assert (above - below) / (2 * step) == pytest.approx(of_x[i], rel=1e-5, abs=1e-7)
    difference = (objective(ALPHA + 1e-6) - objective(ALPHA - 1e-6)) / 2e-6
    assert difference == pytest.approx(of_alpha, rel=1e-5, abs=1e-7)
    assert (of_alpha != 0) == (isinstance(quantiser, Clip) and quantiser.learned)


def test_the_ends_of_the_range_are_the_paper_s() -> None:
    """∂y/∂x = 1 on [0, α), ∂y/∂α = 1 for x ≥ α."""
    x = np.float32([-1, 0, 1, np.nextafter(np.float32(ALPHA), np.float32(0)), ALPHA, 5])
    error = np.float32([1, 2, 4, 8, 16, 32])
    of_x, of_alpha = Clip(4).backward(x, error, ALPHA)
    assert of_x.tolist() == [0, 2, 4, 8, 0, 0]
    assert of_alpha == 48


def test_a_range_keeps_a_width() -> None:
    for alpha in (0.0, -3.0):
        found = Clip(2).quantise(np.float32([1, -1]), alpha)
        assert found.values.tolist() == [LEAST_ALPHA, 0]


@pytest.mark.parametrize("alpha", [np.nan, np.inf, -np.inf])
def test_an_alpha_that_is_not_finite_is_told(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"α is {alpha}: the run has diverged"):
        Clip(4).quantise(np.float32([1, 2]), alpha)
    assert Clip(4, 2.0, learned=False).quantise(np.float32([2]), alpha).values.tolist() == [2]


def test_half_precision_is_quantised_too() -> None:
    x = np.float16([-1, 0.3, 2.5, 9])
    assert np.array_equal(Clip(4).quantise(x, 2).codes, Clip(4).quantise(x.astype(np.float32), 2).codes)
    half, wide = (Clip(4).backward(x.astype(kind), np.ones(4, kind), 2) for kind in (np.float16, np.float32))
    assert half[0].tolist() == wide[0].tolist()
    assert half[1] == wide[1]


@pytest.mark.parametrize("name", ["clip 4", "signed clip 4", "dorefa 4", "sawb 4"])
def test_not_a_number(name: str) -> None:
    with pytest.raises(ValueError, match=r"hold NaN, for which .* has no code: the run has diverged"):
        QUANTISERS[name].quantise(np.float32([1, np.nan]), ALPHA)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clip(9), "bits is 9, but values are quantised to 1 … 8 bits"),
        (lambda: Clip(4, 0.0), "alpha is 0.0, but it must be positive and finite"),
        (
            lambda: Clip(4, 1e-46, learned=False),
            "alpha is 1e-46, but it must be positive and finite in float32",
        ),
        (lambda: Clip(4, 1e39), r"alpha is 1e\+39, but it must be positive and finite in float32"),
        (lambda: Clip(1, signed=True), "bits is 1, but a signed clip has at least 2"),
        (lambda: SAWBWeights(6), "bits is 6, but SAWB has constants for 2, 3, 4, 5, 8 bits"),
        (lambda: Precision(Integer()), "inputs have no quantiser that gives them a scale"),
        (
            lambda: Precision(ChunkedFloat(), inputs=Clip(4)),
            "inputs are quantised, but the forward GEMM is Chunked",
        ),
        (
            lambda: Precision(Integer(), inputs=Clip(5), weights=DoReFaWeights(4)),
            "inputs are cast to uint5, but the forward GEMM takes them as uint4",
        ),
    ],
)
def test_refusals(make, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


LAYERS = {
    "linear": lambda: (Linear(30, 5, np.random.default_rng(1)), (4, 30)),
    "conv": lambda: (Conv2d(3, 4, 3, np.random.default_rng(1), stride=2, padding=1, bias=True), (2, 3, 8, 8)),
}


def prepared(layer: GemmLayer, recipe: Recipe) -> Run:
    layer.name = "layer"
    layer.prepare(recipe)
    return Run(recipe, GoldenEngine())


@pytest.mark.parametrize("of", LAYERS)
@pytest.mark.parametrize("family", ["pact", "pact_sawb", "dorefa"])
@pytest.mark.parametrize("k", [2, 5])
def test_a_layer_computes_with_its_quantised_values(of: str, family: str, k: int) -> None:
    """The integers times both scales are the float product of the quantised values; so are the gradients."""
    recipe = getattr(recipes, family)[k]
    layer, shape = LAYERS[of]()
    run = prepared(layer, recipe)
    plain, _ = LAYERS[of]()
    x = np.maximum(np.random.default_rng(2).normal(3, 6, shape), 0).astype(np.float32)
    p = recipe.hidden
    inputs = p.inputs.quantise(x, 10.0)
    plain.weight.value = p.weights.quantise(layer.weight.value, 0).values
    float_run = prepared(plain, recipes.fp32)
    y, wanted = layer.forward(x, run), plain.forward(inputs.values, float_run)
    np.testing.assert_allclose(y, wanted, rtol=2e-5, atol=2e-5 * np.abs(wanted).max())
    error = np.random.default_rng(3).normal(size=y.shape).astype(np.float32)
    dx, of_quantised = layer.backward(error, run), plain.backward(error, float_run)
    through, of_alpha = p.inputs.backward(x, of_quantised, 10.0)
    np.testing.assert_allclose(dx, through, rtol=1e-4, atol=1e-4)
    of_weight = p.weights.backward(layer.weight.value, plain.weight.gradient, 0)[0]
    np.testing.assert_allclose(
        layer.weight.gradient, of_weight, rtol=1e-3, atol=1e-4 * np.abs(of_weight).max()
    )
    if p.inputs.learned:
        assert layer.alpha is not None
        assert layer.alpha.gradient[0] == pytest.approx(of_alpha, rel=1e-4, abs=1e-3)
        assert of_alpha != 0
    else:
        assert layer.alpha is None


def test_codes_that_enter_a_wider_gemm() -> None:
    """2-bit weights in a GEMM of 5 bits: the same numbers."""
    narrow = Precision(
        Integer.of(IntegerFormat(3), IntegerFormat(2, Levels.ODD)), None, None, Clip(3), DoReFaWeights(2)
    )
    wide = replace(narrow, forward=Integer.of(IntegerFormat(5), IntegerFormat(5, Levels.ODD)))
    x = np.abs(some(120)).reshape(4, 30)
    results = []
    for precision in (narrow, wide):
        layer = Linear(30, 5, np.random.default_rng(1))
        run = prepared(layer, Recipe("test", hidden=precision))
        results.append(layer.forward(x, run))
    assert np.array_equal(*results)


def trainer(recipe: Recipe, **settings: object) -> Trainer:
    digits = data.load("digits")
    network = models.build("mlp", digits.shape, digits.classes, seed=1)
    return Trainer(network, digits, recipe, Settings(**{"epochs": 2, "batch": 64, **settings}))  # type: ignore[arg-type]


def test_alpha_is_a_parameter_with_the_weights_decay() -> None:
    """Where nothing is clipped, α follows from λ alone: α − η·λ·α at first."""
    run = trainer(recipes.pact[4].replace(hidden=replace(recipes.pact[4].hidden, inputs=Clip(4, 1000.0))))
    assert "linear2.alpha" in run.weights
    assert run.weights.keys() >= {"linear1.weight", "linear2.weight", "linear3.weight"}
    assert "linear1.alpha" not in run.weights
    step = run.train_step()
    s = run.settings
    assert step.alphas == {"linear2": pytest.approx(1000 * (1 - s.learning_rate * s.weight_decay), rel=1e-6)}


def test_a_network_is_prepared_anew() -> None:
    digits = data.load("digits")
    network = models.build("mlp", digits.shape, digits.classes, seed=1)
    assert "linear2.alpha" in Trainer(network, digits, recipes.pact[2]).weights
    assert "linear2.alpha" not in Trainer(network, digits, recipes.fp32).weights


def test_checkpoints_resume_to_the_same_bits(tmp_path) -> None:  # type: ignore[no-untyped-def]
    whole, first, second = (trainer(recipes.pact_everywhere[3]) for _ in range(3))
    for _ in range(20):
        whole.train_step()
    for _ in range(7):
        first.train_step()
    checkpoint.save(first, tmp_path / "c.npz")
    checkpoint.resume(second, tmp_path / "c.npz")
    for _ in range(13):
        second.train_step()
    states = whole.state(), second.state()
    assert states[0].keys() == states[1].keys() >= {"weights/linear2.alpha", "momenta/linear3.alpha"}
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("learners", [{}, {"learners": 2, "compression": "adacomp"}])
@pytest.mark.parametrize("first", [recipes.pact[4], recipes.fp32], ids=lambda recipe: recipe.name)
def test_alpha_rests_while_no_layer_learns_it(first: Recipe, learners: dict[str, object], tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Of two recipes of one run, the one may be without: neither L2 nor a gradient of the other's moves α."""
    learning = recipes.quantised("low", Clip(4, 0.5), DoReFaWeights(4, scaled=True))
    first, then = (learning, recipes.fp32) if first is recipes.pact[4] else (recipes.fp32, learning)
    recipe = first.replace(name="both", later=then)
    run = trainer(recipe, later_at=1, batch=256, weight_decay=1e-2, **learners)
    path = [0.5] + [run.train_step().alphas["linear2"] for _ in range(2 * run.steps_per_epoch)]
    moved = np.diff(path) != 0
    at = run.steps_per_epoch
    assert moved[:at].all() == (first is learning)
    assert moved[at:].all() == (then is learning)
    assert moved.sum() == at
    one, other = (trainer(recipe, later_at=1, batch=256, weight_decay=1e-2, **learners) for _ in range(2))
    for _ in range(at + 2):
        one.train_step()
    checkpoint.save(one, tmp_path / "c.npz")
    checkpoint.resume(other, tmp_path / "c.npz")
    for each in (one, other):
        each.train_step()
    states = one.state(), other.state()
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


def test_an_alpha_without_end_is_null_in_the_metrics(tmp_path) -> None:  # type: ignore[no-untyped-def]
    step = Step(0, 0, 1.0, 0.5, 1.0, 0, {"linear2": -np.inf, "linear3": 2.0})
    with MetricsFile(tmp_path / "metrics.jsonl", trainer(recipes.pact[4])) as file:
        file.write(step)
        file.write(replace(step, step=1, exchange={"linear2.alpha": Exchange(1, 1, 9, 8, np.inf, 1.0)}))
    _, one, other = metrics.read(tmp_path / "metrics.jsonl")
    assert one["alphas"] == {"linear2": None, "linear3": 2.0}
    assert np.isnan(metrics.exchanges(other)["linear2.alpha"].residue)


def test_alphas_are_in_the_metrics(tmp_path) -> None:  # type: ignore[no-untyped-def]
    run, path = trainer(recipes.pact[4]), tmp_path / "metrics.jsonl"
    with MetricsFile(path, run) as file:
        steps = [run.train_step() for _ in range(3)]
        for step in steps:
            file.write(step)
    lines = [line for line in metrics.read(path) if line["kind"] == "step"]
    assert [line["alphas"] for line in lines] == [step.alphas for step in steps]
    with MetricsFile(tmp_path / "plain.jsonl", trainer(recipes.fp32)) as file:
        file.write(Step(0, 0, 1.0, 0.5, 1.0, 0))
    assert "alphas" not in metrics.read(tmp_path / "plain.jsonl")[1]


def test_pact_learns_where_to_clip() -> None:
    """A few epochs in 4 bits classify the digits, and α has come down."""
    run = trainer(recipes.pact[4], batch=32, epochs=4)
    *_, last = run.steps()
    alphas = run.network.layers[3].alpha  # type: ignore[attr-defined]
    assert last.test_accuracy > 0.93
    assert 0 < float(alphas.value[0]) < 10


@pytest.mark.parametrize(
    "recipe",
    [recipes.pact[4], recipes.pact_sawb[2], recipes.dorefa[5], recipes.relu6[3], recipes.pact_everywhere[4]],
    ids=lambda recipe: recipe.name,
)
def test_recipes_as_text(recipe: Recipe) -> None:
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert "odd" in str(recipe)
    assert "bits" in str(recipe)
    assert json.loads(recipe.to_json())["hidden"]["inputs"]["is"] == "Clip"


def test_other_gemms_may_be_of_another_arithmetic() -> None:
    """Errors in FP8 beside integer forward GEMMs: the quantised values are rounded as any others."""
    precision = replace(recipes.pact[4].hidden, backward=ChunkedFloat(FP8), gradient=ChunkedFloat(FP8))
    run = trainer(Recipe("mixed", hidden=precision, first=Precision(), last=Precision()))
    assert np.isfinite(run.train_step().loss)
