"""ChunkedFloat with a second accumulator for the totals: kernels against the definition, and what says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quaver.golden.arithmetic import ChunkedFloat
from quaver.golden.arithmetic.named import named, spelled
from quaver.golden.descriptor import Descriptor, descriptor
from quaver.golden.formats import BFLOAT16, DLFLOAT, E4M3, FP8, FP16, FP32, HALF, FloatFormat
from quaver.golden.kernels import dispatch, scalar, vector
from quaver.golden.nn import recipes
from quaver.golden.nn.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore::quaver.golden.arithmetic.chunked_float.FewRandomBits")

FORMATS = [FP16, FP32, HALF, BFLOAT16, DLFLOAT, E4M3, FloatFormat(4, 2), FloatFormat(3, 3), FloatFormat(5, 6)]
PAIRS = st.builds(
    ChunkedFloat,
    st.sampled_from([FP8, E4M3, HALF, FP16, FloatFormat(3, 2)]),
    st.sampled_from(FORMATS),
    st.integers(1, 9),
    st.sampled_from(["nearest", "stochastic", "stochastic-b", "stochastic-c"]),
    st.integers(1, 16),
    st.sampled_from(FORMATS),
)


def operands(fmt: FloatFormat, k: int, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if kind == "any":
        codes = rng.integers(0, 1 << fmt.width, (7, k)).astype(fmt.code_dtype)
    elif kind == "low":
        codes = fmt.encode(rng.standard_normal((7, k)) * 2.0 ** (fmt.min_exponent + 1))
    else:
        codes = fmt.encode(rng.standard_normal((7, k)))
    return codes[:3], np.ascontiguousarray(codes[3:].T)


@settings(max_examples=15, deadline=None, derandomize=True)  # each compiles a kernel
@given(PAIRS, st.integers(0, 30), st.sampled_from(["normal", "any", "low"]), st.integers(0, 1 << 30))
def test_kernels_equal_the_definition(pair: ChunkedFloat, k: int, kind: str, seed: int) -> None:
    a, b = operands(pair.operand, k, kind, seed)
    draws = {"seed": seed + 1} if pair.stochastic else {}
    expected = pair.definition(a, b, **draws)
    np.testing.assert_array_equal(pair.gemm(a, b, **draws), expected)
    if k:
        states = pair.sources(seed + 1) if pair.stochastic else None
        np.testing.assert_array_equal(scalar.scalar_gemm(pair, a, b, states), expected)


def test_the_fast_kernel_takes_the_pairs_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the integers' kernel")

    a, b = operands(FP8, 300, "normal", 1)
    monkeypatch.setattr(scalar, "scalar_gemm", refuse)
    for pair in (
        ChunkedFloat(total=FP32),
        ChunkedFloat(FP8, FP16, 32, total=BFLOAT16.replace(mantissa_bits=12)),
    ):
        np.testing.assert_array_equal(dispatch.chunked_gemm(pair, a, b, None), pair.definition(a, b))
    for rounding in ("stochastic", "stochastic-c"):
        pair = ChunkedFloat(chunk=32, rounding=rounding, total=FP32)
        found = dispatch.chunked_gemm(pair, a, b, pair.sources(3))
        np.testing.assert_array_equal(found, pair.definition(a, b, seed=3))
    assert vector.plan(ChunkedFloat(total=FP32), 1e6) == vector.plan(ChunkedFloat(), 1e6)


def test_a_total_that_is_the_accumulators_is_none() -> None:
    assert ChunkedFloat(total=FP16) == ChunkedFloat()
    assert ChunkedFloat(total=FP16).total is None
    assert ChunkedFloat().result == FP16
    assert ChunkedFloat(total=FP32).result == FP32
    with pytest.raises(TypeError, match="total is 3, but it must be a FloatFormat, or None"):
        ChunkedFloat(total=3)


def test_longer_sums_lose_less_with_a_wider_total() -> None:
    rng = np.random.default_rng(2)
    a, b = FP8.encode(rng.random((4, 1 << 17))), FP8.encode(rng.random((1 << 17, 4)))
    exact = FP8.decode(a).astype(np.float64) @ FP8.decode(b).astype(np.float64)
    plain, promoted = ChunkedFloat(), ChunkedFloat(total=FP32)
    errors = [np.abs(one.result.decode(one.gemm(a, b)) / exact - 1).mean() for one in (plain, promoted)]
    assert errors[1] < errors[0] / 10


def test_descriptors_of_before_are_understood() -> None:
    before = "1 chunked_float operand=e5m2sat accumulator=e6m9 chunk=64 rounding=nearest random_bits=14"
    assert str(descriptor(ChunkedFloat())) == before
    promoted = ChunkedFloat(total=FP32)
    assert str(descriptor(promoted)) == f"{before} total=e8m23"
    for text, there in ((before, ChunkedFloat()), (f"{before} total=e8m23", promoted)):
        found = Descriptor.parse(text)
        for one in (ChunkedFloat(), promoted, replace(promoted, total=BFLOAT16)):
            assert found.describes(one) == (one == there)


def test_names_and_recipes() -> None:
    promoted = ChunkedFloat(total=FP32)
    assert spelled(promoted) == "chunked_float(total=e8m23)"
    assert named("fp8(total=fp32)") == promoted
    for defaults in (False, True):
        assert named(spelled(promoted, defaults=defaults)) == promoted
        assert named(spelled(ChunkedFloat(), defaults=defaults)) == ChunkedFloat()
    recipe = recipes.fp8.with_gemms("promoted", total=FP32)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert '"total"' not in recipes.fp8.to_json()
    assert Recipe.from_json(recipes.fp8.to_json()) == recipes.fp8
