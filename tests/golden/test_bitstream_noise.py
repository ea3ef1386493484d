"""The statistical model of bit streams against the streams: moments, covariances, and a two-sample test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from quaver.golden.arithmetic import Bitstream, Integer
from quaver.golden.arithmetic.bitstream import Circuit
from quaver.golden.bitstream_noise import NoiseEngine, sample, variance
from quaver.golden.lfsr import numbered_seed

SEEDS, M, K, N = 1000, 4, 60, 5


def operands(signed: bool) -> list[Any]:
    """Codes of any size; of one sign alone, so that errors which are shared do not cancel, or of both."""
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256 if signed else 128, shape).astype(np.uint8) for shape in ((M, K), (K, N))]


def drawn(arithmetic: Bitstream, a: Any, b: Any, how: Any) -> Any:
    """Standardised errors (SEEDS, M, N)."""
    exact = arithmetic.a.decode(a).astype(np.float64) @ arithmetic.b.decode(b)
    codes = np.array([how(a, b, seed=numbered_seed(8, s)) for s in range(SEEDS)])
    return (arithmetic.result.decode(codes) - exact) / np.sqrt(variance(arithmetic, a, b))


@pytest.mark.parametrize("circuit", Circuit)
@pytest.mark.parametrize("length", [16, 128])
def test_model_and_streams_agree(circuit: Circuit, length: int) -> None:
    """20,000 dot products each: mean 0, variance 1 by the theory, and one distribution.

    Outputs of a row or a column go together, so that the two-sample test takes those of a diagonal.
    """
    arithmetic = Bitstream(length=length, circuit=circuit)
    a, b = operands(signed=True)
    model = drawn(arithmetic, a, b, lambda *x, **s: sample(arithmetic, *x, **s))
    streams = drawn(arithmetic, a, b, arithmetic.gemm)
    for e in (model, streams):
        assert abs(e.mean(axis=0)).max() < 4 / np.sqrt(SEEDS)
        assert (e**2).mean() == pytest.approx(1, abs=0.1)
    of_model, of_streams = (e[:, range(M), range(M)].ravel() for e in (model, streams))
    assert stats.ks_2samp(of_model, of_streams).pvalue > 0.001
    assert stats.ks_2samp(1.5 * of_model, of_streams).pvalue < 0.001  # it can fail


@pytest.mark.parametrize("circuit", [Circuit.AND, Circuit.XNOR])
def test_errors_go_together_alike(circuit: Circuit) -> None:
    """Correlations of the outputs of one row, of one column, and of neither."""
    arithmetic = Bitstream(length=16, circuit=circuit)
    a, b = operands(signed=False)
    found = []
    for how in (lambda *x, **s: sample(arithmetic, *x, **s), arithmetic.gemm):
        e = drawn(arithmetic, a, b, how)
        rows = [(e[:, :, j] * e[:, :, k]).mean() for j in range(N) for k in range(j)]
        columns = [(e[:, i] * e[:, k]).mean() for i in range(M) for k in range(i)]
        apart = [(e[:, i, i] * e[:, k, k]).mean() for i in range(M) for k in range(i)]
        found.append([np.mean(each) for each in (rows, columns, apart)])
    np.testing.assert_allclose(*found, atol=0.07)
    assert min(found[1][:2]) > 0.1 > abs(found[1][2])


def test_the_engine_samples_streams_and_nothing_else() -> None:
    engine, arithmetic = NoiseEngine(), Bitstream()
    a, b = operands(signed=True)
    once, again = (engine.gemm(arithmetic, a, b, seed=3) for _ in range(2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, arithmetic.gemm(a, b, seed=3))
    exact = Integer()
    assert np.array_equal(engine.gemm(exact, a & 15, b & 15), exact.gemm(a & 15, b & 15))


def test_it_refuses_what_there_is_no_theory_of() -> None:
    for change in ({"generator": "van_der_corput"}, {"sharing": "one"}):
        with pytest.raises(ValueError, match="but the noise theory is of lfsr and edges"):
            sample(Bitstream(**change), *operands(signed=True), seed=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed is None"):
        sample(Bitstream(), *operands(signed=True))
    with pytest.raises(ValueError, match="disagree on K"):
        variance(Bitstream(), *reversed(operands(signed=True)))


@pytest.mark.parametrize("circuit", Circuit)
def test_few_products_and_none(circuit: Circuit) -> None:
    """A count never leaves what K products can be, and is even where the circuit's is."""
    arithmetic = Bitstream(length=16, circuit=circuit)
    ends = np.array([[127], [255]], np.uint8)
    counts = arithmetic.result.integers(sample(arithmetic, ends, ends.T, seed=1))
    assert np.abs(counts).max() <= 16
    assert circuit is Circuit.AND or not (counts % 2).any()
    empty = sample(arithmetic, np.zeros((2, 0), np.uint8), np.zeros((0, 3), np.uint8), seed=1)
    assert empty.tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("signs", [0, 1], ids=["of one sign", "of both"])
def test_sums_of_less_than_a_count_keep_their_mean(signs: int) -> None:
    """60 products of 1/128 with 1/128 and 4/128: rounded to the nearest count, all of them were 0."""
    arithmetic = Bitstream(length=16)
    a, b = np.ones((1, K), np.uint8), np.ones((K, 4000), np.uint8)
    b[::3] = 4 | signs << 7
    exact = arithmetic.length * (arithmetic.a.decode(a) @ arithmetic.b.decode(b)).mean()
    counts = arithmetic.result.integers(np.vstack([sample(arithmetic, a, b, seed=s) for s in range(1, 41)]))
    assert counts.mean() == pytest.approx(exact, abs=0.015)
    assert counts.var() == pytest.approx(arithmetic.length**2 * variance(arithmetic, a, b).mean(), rel=0.1)
