"""The LFSR: maximal length, the order of its draws, and the bulk draws against the definition."""

import os
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from quaver.golden.lfsr import COLUMN_TAPS, LFSR, SEED_STEP, TAPS, numbered_draws, numbered_seed

PERIOD = 2**32 - 1
FACTORS = (3, 5, 17, 257, 65537)


def power_of_x(exponent, taps):
    """x**exponent modulo the feedback polynomial x**32 + Σ x**(32 − tap), over GF(2)."""
    polynomial = 1 << 32 | sum(1 << (32 - tap) for tap in taps)

    def multiply(a, b):
        product = 0
        while b:
            product ^= a * (b & 1)
            a, b = a << 1, b >> 1
            a ^= polynomial * (a >> 32)
        return product

    result, square = 1, 2
    while exponent:
        if exponent & 1:
            result = multiply(result, square)
        square, exponent = multiply(square, square), exponent >> 1
    return result


def is_maximal(taps):
    return power_of_x(PERIOD, taps) == 1 and all(power_of_x(PERIOD // f, taps) != 1 for f in FACTORS)


def test_both_polynomials_have_the_full_period():
    assert np.prod(FACTORS) == PERIOD
    assert is_maximal(TAPS)
    assert is_maximal(COLUMN_TAPS)
    assert not is_maximal((32, 31, 30, 29))  # the check can fail


@pytest.mark.parametrize("taps", [TAPS, COLUMN_TAPS])
def test_a_step_is_multiplication_by_x(taps):
    # Bits s[0], s[1], … of the sequence are a linear function of x**t: s[t+32] follows from the polynomial.
    source = LFSR(1, taps)
    bits = [source.step() for _ in range(300)]
    for t in range(32, 300):
        assert bits[t] == sum(bits[t - tap] for tap in taps) % 2


def test_draw_order_and_state():
    source, stepped = LFSR(0xDEADBEEF), LFSR(0xDEADBEEF)
    bits = [stepped.step() for _ in range(14)]
    assert source.draw(14) == int("".join(map(str, bits)), 2)  # the oldest new bit is on top
    assert source.state == stepped.state == (0xDEADBEEF << 14 | int("".join(map(str, bits)), 2)) & 0xFFFFFFFF


@pytest.mark.parametrize("taps", [TAPS, COLUMN_TAPS, (32, 22, 2, 1)])
@pytest.mark.parametrize("bits", [1, 3, 13, 14, 16, 17, 25, 31, 32])
def test_bulk_draws_equal_single_draws(taps, bits):
    for count in (0, 1, 2, 511, 512, 513, 1100):
        seed = (bits * 1000003 + count) * SEED_STEP & 0xFFFFFFFF
        bulk, single = LFSR(seed, taps), LFSR(seed, taps)
        drawn = bulk.draws(count, bits)
        assert drawn.dtype == (np.uint16 if bits <= 16 else np.uint32)
        assert drawn.tolist() == [single.draw(bits) for _ in range(count)]
        assert bulk.state == single.state


def test_draws_continue_and_restart_from_the_state():
    whole = LFSR(99).draws(5000, 14)
    source = LFSR(99)
    first = source.draws(1234, 14)
    assert np.array_equal(np.concatenate([first, LFSR(source.state).draws(5000 - 1234, 14)]), whole)


@pytest.mark.parametrize("taps", [TAPS, COLUMN_TAPS])
@pytest.mark.parametrize("shape", [(3, 20), (0, 5), (4, 0), (300, 700)])  # one thread, none, none, threads
def test_numbered_draws(shape, taps):
    rows, count = shape
    indices = np.arange(rows) * 7 + 2
    drawn = numbered_draws(0xFFFFFFF0, indices, count, 14, taps)
    assert drawn.shape == shape
    for row in range(0, rows, 41):
        expected = LFSR(numbered_seed(0xFFFFFFF0, int(indices[row])), taps).draws(count, 14)
        assert np.array_equal(drawn[row], expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_process_draws_the_same() -> None:
    """As a data loader's does, after its parent has used threads."""
    rows = np.arange(2000)
    expected = numbered_draws(1, rows, 64, 14)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, on forking a process with threads
        child = os.fork()
    if child == 0:
        same = np.array_equal(numbered_draws(1, rows, 64, 14), expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_numbered_seed_is_never_zero():
    seed = -SEED_STEP % (1 << 32)  # number 1 of this family would be 0
    assert numbered_seed(seed, 1) == numbered_seed(SEED_STEP, 0) != 0
    assert np.array_equal(numbered_draws(seed, [1], 9, 16), [LFSR(numbered_seed(seed, 1)).draws(9, 16)])


@pytest.mark.parametrize("taps", [TAPS, COLUMN_TAPS])
def test_draws_are_equidistributed(taps):
    drawn = LFSR(12345, taps).draws(1 << 20, 16).astype(np.int64)
    for values, cells in (
        (drawn >> 8, 256),
        (drawn & 255, 256),
        (drawn[1:] >> 12 << 4 | drawn[:-1] >> 12, 256),
    ):
        expected = len(values) / cells
        chi2 = float(((np.bincount(values, minlength=cells) - expected) ** 2 / expected).sum())
        assert abs(chi2 - (cells - 1)) < 6 * (2 * (cells - 1)) ** 0.5
    assert abs(drawn.mean() - 32767.5) < 5 * 65536 / 12**0.5 / len(drawn) ** 0.5


def test_bad_input():
    for seed in (0, 1 << 32, -1):
        with pytest.raises(ValueError, match=rf"LFSR seed is {seed}, but it must be 1 … 2\*\*32 − 1"):
            LFSR(seed)
    for bits in (0, 33):
        for ask in (
            lambda b: LFSR(1).draw(b),
            lambda b: LFSR(1).draws(5, b),
            lambda b: numbered_draws(1, [0], 5, b),
        ):
            with pytest.raises(ValueError, match=f"a draw of {bits} bits, but a draw takes 1 … 32"):
                ask(bits)
    with pytest.raises(ValueError, match="-1 draws asked for"):
        LFSR(1).draws(-1, 5)
    for taps in ((31, 3), (32, 33), (32, 32, 5)):
        with pytest.raises(ValueError, match="but they must be distinct, in 1 … 32, and 32 among"):
            LFSR(1, taps)


def test_no_call_draws_what_another_call_draws() -> None:
    calls, sources = range(50), range(300)
    seeds = {numbered_seed(numbered_seed(1, call), source) for call in calls for source in sources}
    assert len(seeds) == len(calls) * len(sources)
    # The control: calls and sources that both go by steps share nearly all of them.
    assert len({call + source for call in calls for source in sources}) < len(calls) + len(sources)


def _spread_of_summed_errors(states: Callable[[int], np.ndarray]) -> np.ndarray:
    """Variance of the sum of 256 stochastic roundings of a 16 × 16 GEMM, over that of independent draws; for
    each of the first eight draws, over 3000 seeds. Sampling error 0.026."""
    size, bits, draws = 16, 14, 8
    rng = np.random.default_rng(0)
    up = rng.random((size, size, 1))
    sums = []
    for seed in rng.integers(1, 1 << 32, 3000).tolist():
        x = np.array([LFSR(s, TAPS).draws(draws, bits) for s in states(seed)[:size].tolist()])
        y = np.array([LFSR(s, COLUMN_TAPS).draws(draws, bits) for s in states(seed)[size:].tolist()])
        sums.append((((x[:, None] ^ y[None]) < up * (1 << bits)) - up).sum((0, 1)))
    return np.var(sums, axis=0) / (up * (1 - up)).sum()


def test_sources_at_the_edges_of_an_array_are_as_good_as_independent() -> None:
    def numbered(seed: int) -> np.ndarray:
        rows = [numbered_seed(seed, i) for i in range(16)]
        return np.array(rows + [numbered_seed(seed ^ 0xFFFFFFFF, j) for j in range(16)])

    def in_steps(seed: int) -> np.ndarray:
        both = np.array([[seed], [seed ^ 0xFFFFFFFF]]) + np.arange(16) * SEED_STEP
        return (both % (1 << 32)).ravel()

    np.testing.assert_allclose(_spread_of_summed_errors(numbered), 1, atol=0.13)
    assert np.abs(_spread_of_summed_errors(in_steps) - 1).max() > 0.4  # the control
