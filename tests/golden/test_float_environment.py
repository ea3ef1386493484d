"""No result depends on what other libraries have done to the process's floating-point environment."""

from __future__ import annotations

import ctypes
import hashlib
import math
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from quaver.golden import data
from quaver.golden.arithmetic import ChunkedFloat, FixedPoint
from quaver.golden.formats import BFLOAT16, FP8, FP16, FP32, HALF, FixedFormat, FloatFormat
from quaver.golden.lfsr import LFSR
from quaver.golden.nn import models, recipes
from quaver.golden.nn.settings import Settings
from quaver.golden.nn.trainer import Trainer
from quaver.golden.planning.networks import NETWORKS
from quaver.golden.planning.plan import plan
from quaver.golden.update.adam import Adam
from quaver.golden.update.fixed_sgd import FixedUpdate
from quaver.golden.update.float_sgd import Update

#: Where the control register lies in fenv_t, its bits that flush subnormal numbers, and rounding upward.
CONTROL = {"x86_64": (28, 0x8040, 0x4000), "aarch64": (0, 1 << 24, 1 << 22)}
pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in CONTROL, reason="fenv_t is not known here"
)


@contextmanager
def environment(*, flush: bool = False, upward: bool = False) -> Iterator[None]:
    """This thread with subnormal numbers flushed to zero, or with sums rounded upward."""
    offset, flushing, upwards = CONTROL[platform.machine()]
    c = ctypes.CDLL("libm.so.6")
    before = ctypes.create_string_buffer(64)
    c.fegetenv(before)
    changed = ctypes.create_string_buffer(before.raw, 64)
    control = ctypes.c_uint32.from_buffer(changed, offset)
    control.value |= flush * flushing | upward * upwards
    c.fesetenv(changed)
    try:
        yield
    finally:
        c.fesetenv(before)


def _codes(fmt: FloatFormat | FixedFormat, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 1 << fmt.width, shape).astype(fmt.code_dtype)


TINY = np.ldexp(np.float32(1), np.arange(-149, -100))
VALUES = np.concatenate([TINY, -3 * TINY, np.random.default_rng(0).normal(size=999).astype(np.float32)])


def _encoded() -> Iterator[np.ndarray]:
    for fmt in (FP8, FP16, BFLOAT16, HALF, FP32, FloatFormat(8, 3), FixedFormat(8, 8)):
        for many in (1, 300):
            repeated = np.tile(VALUES, many)
            draws = LFSR(1).draws(len(repeated), 16)
            yield fmt.encode(repeated)
            yield fmt.encode(repeated, "truncate")
            yield fmt.encode(repeated, "stochastic", random=draws)
            yield fmt.decode(fmt.encode(repeated))


def _products() -> Iterator[np.ndarray]:
    for arithmetic in (
        ChunkedFloat(),
        ChunkedFloat(FloatFormat(8, 3), FP32, chunk=3),
        ChunkedFloat(BFLOAT16, FP32, rounding="stochastic"),
        ChunkedFloat(HALF, FloatFormat(8, 7)),
    ):
        a, b = _codes(arithmetic.operand, 40, 33), _codes(arithmetic.operand, 33, 50)
        yield arithmetic.gemm(a, b, seed=1 if arithmetic.stochastic else None)
    a = _codes(FixedFormat(8, 8), 9, 33)
    yield FixedPoint().gemm(a, a.T, seed=1)


def _updates() -> Iterator[np.ndarray]:
    for fmt in (FP16, BFLOAT16):
        codes = _codes(fmt, 3, 500)
        yield from Update(0.1, 0.9, 1e-4, fmt).update(*codes, seed=1)
        yield from Adam(0.1, format=fmt).update(codes[0], codes[:2], codes[2], seed=1)
    codes = _codes(FixedUpdate(0.1, 0.9, 0.0).formats[0], 3, 500)
    yield from FixedUpdate(0.1, 0.9, 0.0).update(*codes, seed=1)


def _training() -> Iterator[np.ndarray]:
    digits = data.load("digits")
    for recipe in (recipes.fp8, recipes.fp32, recipes.fixed16):
        network = models.build("resnet8", digits.shape, digits.classes)
        run = Trainer(network, digits, recipe, Settings(batch=4))
        run.train_step()
        yield from run.state().values()
        yield np.array(run.evaluate(digits.test_images[:9], digits.test_labels[:9]))


def _plans() -> Iterator[np.ndarray]:
    yield np.frombuffer(repr(plan(NETWORKS["resnet32-cifar10"]())).encode(), np.uint8)


def digest(results: Callable[[], Iterator[np.ndarray]]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in results())).hexdigest()


@pytest.mark.parametrize("results", [_encoded, _products, _updates, _training, _plans])
def test_results_do_not_depend_on_it(results: Callable[[], Iterator[np.ndarray]]) -> None:
    usual = digest(results)
    with environment(flush=True):
        assert digest(results) == usual
    with environment(upward=True):
        assert digest(results) == usual


def test_the_caller_keeps_its_environment() -> None:
    with environment(flush=True):
        FP8.encode(np.ones(3))
        assert np.float32(2.0**-140) * np.float32(2) == 0
    with environment(upward=True):
        FP8.encode(np.ones(3))
        assert np.float64(1) + np.float64(2.0**-80) > 1  # and so the test can tell
    assert np.float64(1) + np.float64(2.0**-80) == 1
    assert math.ldexp(1, -1074) * 2 > 0


def test_the_smallest_bfloat16() -> None:
    tiny = np.full(1, 2.0**-133, np.float32)
    with environment(flush=True):
        assert FloatFormat.encode.__wrapped__(BFLOAT16, tiny) == 0  # type: ignore[attr-defined]  # as it was
        assert BFLOAT16.encode(tiny) == 1
        assert (BFLOAT16.encode(np.full(1 << 20, tiny[0])) == 1).all()
