"""The training loop: accuracy of FP8 beside FP32, the same bits whatever the threads, overflow, loss
scaling."""

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy._core._multiarray_umath import __cpu_features__

from quaver.golden import data
from quaver.golden.engine import GoldenEngine
from quaver.golden.formats import FP16
from quaver.golden.lfsr import numbered_seed
from quaver.golden.nn import models, optimisers, recipes
from quaver.golden.nn.recipe import LossScale
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Epoch, Step, Trainer

GEMMS_PER_STEP = 8  # three layers, forward, gradient, backward, less one backward
LAST_GEMM = GEMMS_PER_STEP - 1  # a gradient GEMM
ONE_EPOCH = Settings(epochs=1)


def trainer(recipe=recipes.fp8, settings=ONE_EPOCH, **options):
    digits = data.load("digits")
    network = models.build("mlp", digits.shape, digits.classes, seed=1)
    return Trainer(network, digits, recipe, settings, **options)


def epochs(run):
    return [event for event in run.steps() if isinstance(event, Epoch)]


def test_fp8_trains_the_digits_like_fp32():
    accuracy = {}
    for recipe in (recipes.fp32, recipes.fp8):
        *_, last = epochs(trainer(recipe, Settings(epochs=4)))
        accuracy[recipe.name] = last.test_accuracy
    assert accuracy["fp32"] > 0.95
    assert accuracy["fp8"] > accuracy["fp32"] - 0.015


def test_events_and_state():
    run = trainer(settings=Settings(epochs=2, batch=256))
    events = list(run.steps())
    assert [type(event) for event in events] == ([Step] * 5 + [Epoch]) * 2
    assert [event.step for event in events if isinstance(event, Step)] == list(range(10))
    assert [event.step for event in events if isinstance(event, Epoch)] == [5, 10]
    assert run.weights["linear1.weight"].dtype == np.uint16
    for p in run.parameters:  # what the layers see is what is stored
        assert np.array_equal(p.value, FP16.decode(run.weights[p.name]))
    assert not list(run.steps())


def test_seeds():
    def weights(**settings):
        run = trainer(settings=Settings(epochs=1, **settings))
        run.train_step()
        return run.weights

    first, again, other = weights(seed=1), weights(seed=1), weights(seed=2)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["linear1.weight"], other["linear1.weight"])


class Listening(GoldenEngine):
    """Keeps the seeds that it is given."""

    def __init__(self):
        self.seeds = []

    def gemm(self, arithmetic, a_codes, b_codes, *, seed=None):
        self.seeds.append(seed)
        return super().gemm(arithmetic, a_codes, b_codes, seed=seed)

    def update(self, rule, weights, momenta, gradients, *, seed=None):
        self.seeds.append(seed)
        return super().update(rule, weights, momenta, gradients, seed=seed)


def test_each_stochastic_call_has_its_own_seed():
    stochastic = recipes.fp8.with_gemms("stochastic", rounding="stochastic")
    for recipe, per_step in ((recipes.fp8, 6), (stochastic, GEMMS_PER_STEP + 6)):
        engine = Listening()
        run = trainer(recipe, engine=engine)
        run.train_step()
        run.train_step()
        seeds = [seed for seed in engine.seeds if seed is not None]
        assert seeds == [numbered_seed(run.settings.seed, call) for call in range(1, 2 * per_step + 1)]
        assert len(set(seeds)) == len(seeds)


def test_evaluation_leaves_no_trace_in_training():
    stochastic = recipes.fp8.with_gemms("stochastic", rounding="stochastic")
    one, two = trainer(stochastic), trainer(stochastic)
    for _ in range(3):
        one.train_step()
        two.train_step()
        two.evaluate(two.data.test_images[:50], two.data.test_labels[:50])
    for name, array in one.state().items():
        assert np.array_equal(array, two.state()[name]), name


THREADS = """
import hashlib, sys
import numba
numba.set_num_threads(int(sys.argv[1]))
from quaver.golden import data
from quaver.golden.nn import models
from quaver.golden.nn import recipes
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
digits = data.load("digits")
for recipe in (recipes.fp8, recipes.fp8.with_gemms("stochastic", rounding="stochastic"), recipes.fp32):
    run = Trainer(models.build("cnn", digits.shape, 10, seed=1), digits, recipe, Settings(batch=64))
    for _ in range(2):
        run.train_step()
    print(hashlib.sha256(b"".join(array.tobytes() for array in run.state().values())).hexdigest())
"""


#: Kernels of OpenBLAS that this processor has, each of which sums in an order of its own.
BLAS_KERNELS = {"Haswell": "AVX2", "Zen": "AVX2", "SkylakeX": "AVX512_SKX"}


@pytest.mark.parametrize(
    "kernel", ["", "Haswell", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Zen", "SkylakeX"))]
)
def test_the_same_bits_whatever_the_thread_count(kernel):
    if kernel and not __cpu_features__.get(BLAS_KERNELS[kernel]):
        pytest.skip(f"this processor has no {BLAS_KERNELS[kernel]}")

    def digests(threads):
        counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        environment = os.environ | counts | {"NUMBA_NUM_THREADS": "3"}
        if kernel:
            environment["OPENBLAS_CORETYPE"] = kernel
        command = [sys.executable, "-c", THREADS, str(threads)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.split()

    one = digests(1)
    assert len(set(one)) == 3
    assert one == digests(2)
    assert one == digests(3)


class Overflowing(GoldenEngine):
    """Gives an infinity in one result of the gradient GEMM of a chosen call."""

    def __init__(self, *bad_calls):
        self.calls, self.bad_calls = 0, bad_calls

    def gemm(self, arithmetic, a_codes, b_codes, *, seed=None):
        codes = super().gemm(arithmetic, a_codes, b_codes, seed=seed)
        if self.calls in self.bad_calls:
            codes[0, 0] = arithmetic.result.infinity_code
        self.calls += 1
        return codes


def test_an_overflow_skips_the_update_and_is_counted():
    run = trainer(engine=Overflowing(LAST_GEMM))
    before = run.state()
    step = run.train_step()
    assert step.overflows == 1 or step.overflows == 2  # the result, and the gradient that it is
    for name in run.weights:
        assert np.array_equal(run.weights[name], before[f"weights/{name}"])
    assert run.loss_scale == 1000
    assert run.train_step().overflows == 0
    assert not np.array_equal(run.weights["linear1.weight"], before["weights/linear1.weight"])


@pytest.mark.parametrize("call", [0, -1], ids=["forward", "gradient"])
def test_an_overflow_leaves_the_running_statistics(call):
    digits = data.load("digits")
    network = models.build("resnet8", digits.shape, digits.classes)
    calls = []
    settings = Settings(batch=2)
    Trainer(network, digits, recipes.fp8, settings, trace=calls.append).train_step()
    gemms = [one for one in calls if one.role != "update"]
    network = models.build("resnet8", digits.shape, digits.classes)
    run = Trainer(network, digits, recipes.fp8, settings, engine=Overflowing(range(len(gemms))[call]))
    before = run.state()
    assert run.train_step().overflows
    for name, array in run.state().items():
        if name.startswith("layer/"):
            assert np.array_equal(array, before[name])
    assert not run.train_step().overflows
    assert np.isfinite(run.evaluate(digits.test_images[:2], digits.test_labels[:2])[0])


def test_dynamic_loss_scale_halves_on_overflow_and_doubles_after_good_steps():
    recipe = recipes.fp8.replace(name="dynamic", loss_scale=LossScale(1024, grow_every=3))
    run = trainer(recipe, engine=Overflowing(GEMMS_PER_STEP + LAST_GEMM))
    scales = [run.train_step().loss_scale for _ in range(9)]
    assert scales == [1024, 1024, 512, 512, 512, 1024, 1024, 1024, 2048]


@pytest.mark.parametrize(("what", "first"), [("weight", "forward"), ("bias", "gradient")])
def test_a_lasting_nan_ends_at_the_floor_of_a_dynamic_loss_scale(what, first):
    """The scale does not shrink for ever, the GEMM is named, and the step never began."""
    recipe = recipes.fp8.replace(name="dynamic", loss_scale=LossScale(2.0**-11, grow_every=3))
    run = trainer(recipe)
    state = run.state()
    state[f"weights/linear3.{what}"].flat[0] = FP16.nan_code
    run.restore(state)
    scales = [run.train_step().loss_scale for _ in range(2)]
    assert scales == [2.0**-11, 2.0**-12]
    before = run.state()
    message = f"step 2: the {first} GEMM of linear3 is not finite, though the loss scale has come down to 0"
    with pytest.raises(RuntimeError, match=message):
        run.train_step()
    assert all(np.array_equal(before[name], array, equal_nan=True) for name, array in run.state().items())


def test_a_constant_loss_scale_has_no_floor():
    run = trainer(recipes.fp8.replace(loss_scale=LossScale(2.0**-14)), engine=Overflowing(LAST_GEMM))
    assert run.train_step().overflows
    assert run.loss_scale == 2.0**-14


@pytest.mark.filterwarnings("error")
def test_a_run_that_diverges_warns_of_nothing():
    run = trainer(recipes.fp32, Settings(epochs=1, batch=256, learning_rate=1e6))
    (epoch,) = epochs(run)
    assert not np.isfinite([epoch.loss, epoch.test_loss]).any()


def test_the_loss_scale_does_not_change_what_is_learnt():
    """Powers of two shift every error exactly: only what falls out of FP8's range at one scale may differ."""
    plain, scaled = (trainer(recipes.fp8.replace(loss_scale=LossScale(scale))) for scale in (1024.0, 2048.0))
    plain.train_step()
    scaled.train_step()
    assert min(np.mean(plain.weights[name] == scaled.weights[name]) for name in plain.weights) > 0.99


@pytest.mark.parametrize("recipe", [recipes.fp32, recipes.fp8], ids=lambda r: r.name)
def test_adam_trains_the_digits(recipe):
    run = trainer(recipe, Settings(epochs=3, optimiser="adam"))
    assert run.settings.learning_rate == 0.001
    assert epochs(run)[-1].test_accuracy > 0.93
    weight = run.weights["linear1.weight"]
    assert run.momenta["linear1.weight"].shape == (2, *weight.shape)
    assert run.updates == run.step


def test_adam_in_float32_is_its_formula():
    settings = Settings(optimiser="adam", momentum=0.8, second_momentum=0.9)
    w, m, v, g = (np.random.default_rng(1).random(50).astype(np.float32) for _ in range(4))
    new_w, new_mv = optimisers.in_float32(settings, w, np.stack([m, v]), g, 0.01, 0.1, 3)
    g = g + 0.1 * w
    m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
    assert new_mv == pytest.approx(np.stack([m, v]), rel=1e-5)
    root = np.sqrt(v / (1 - 0.9**3)) + 2.0**-20 / (1 - 0.9**3) ** 0.5
    assert new_w == pytest.approx(w - 0.01 * m / (1 - 0.8**3) / root, rel=1e-5)


def test_an_overflow_is_no_step_of_adams():
    run = trainer(settings=Settings(epochs=1, optimiser="adam", batch=128))
    run.train_step()
    run.loss_scale = 1e12
    assert run.train_step().overflows
    assert (run.step, run.updates) == (2, 1)


def test_learning_rate_decays():
    settings = Settings(epochs=3, learning_rate=0.1, decay_at=(1, 2))
    assert [settings.learning_rate_at(epoch) for epoch in range(3)] == pytest.approx([0.1, 0.01, 0.001])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch is 0, but both are at least 1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": -1}, "the learning rate is -1"),
        ({"learning_rate": float("nan")}, "the learning rate is nan"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"weight_decay": -1e-4}, "the weight decay is -0.0001"),
        ({"seed": 0}, "the seed is 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


def test_a_batch_larger_than_the_data():
    with pytest.raises(ValueError, match="batch is 2000, but digits has 1437 training images"):
        trainer(settings=Settings(batch=2000))
