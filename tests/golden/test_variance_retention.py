"""The variance retention ratio, against sums written out as in the paper and against known widths."""

import math
import time
import warnings

import numpy as np
import pytest

from quaver.golden.arithmetic.chunked_float import ChunkedFloat
from quaver.golden.formats import FP8, FP16, FloatFormat
from quaver.golden.planning.variance_retention import (
    LARGEST_LOSS,
    ChunkRule,
    NotMonotoneWarning,
    best_chunk,
    largest_length,
    loss,
    minimum_mantissa_bits,
    product_mantissa_bits,
    retention,
    stage_losses,
    suitable,
)


def tail(x: float) -> float:
    """2·Q(x) for the standard normal distribution."""
    return math.erfc(x / math.sqrt(2))


def theorem_1(n: int, m_a: int, m_p: int) -> float:
    """VRR term by term as the theorem states it: slow, and without a digit to spare."""

    def alpha(j: int) -> float:
        return 2 ** (m_a - 3 * m_p) / 3 * sum(2**t * (2**t - 1) * (2 ** (t + 1) - 1) for t in range(1, j))

    last = alpha(m_p + 1)
    q = {
        i: tail(2**m_a / math.sqrt(i)) * (1 - tail(2**m_a / math.sqrt(i - 1)))
        for i in range(2, n)
        if i > last
    }
    partial = {
        j: 2 ** (m_a - m_p + j)
        * tail(2 ** (m_a - m_p + j - 1) / math.sqrt(n))
        * (1 - tail(2 ** (m_a - m_p + j) / math.sqrt(n)))
        for j in range(2, m_p + 1)
        if n > alpha(j)
    }
    k3 = 1 - tail(2 ** (m_a - m_p + 1) / math.sqrt(n))
    k = math.fsum(q.values()) + math.fsum(partial.values()) + k3
    retained = math.fsum((i - last) * q_i for i, q_i in q.items())
    retained += math.fsum((n - alpha(j)) * q_j for j, q_j in partial.items()) + n * k3
    return retained / (k * n)


def lemma_1(n: int, m_a: int) -> float:
    q = {i: tail(2**m_a / math.sqrt(i)) * (1 - tail(2**m_a / math.sqrt(i - 1))) for i in range(2, n)}
    q_n = 1 - tail(2**m_a / math.sqrt(n))
    return (math.fsum(i * q_i for i, q_i in q.items()) + n * q_n) / ((math.fsum(q.values()) + q_n) * n)


@pytest.mark.parametrize("m_p", [3, 5, 7])
@pytest.mark.parametrize("m_a", [5, 6, 8, 10])
def test_theorem_1(m_a, m_p):
    for n in (2, 3, 9, 10, 24, 25, 64, 196, 1000, 4097, 30_000):
        assert retention(n, m_a, product_mantissa=m_p) == pytest.approx(theorem_1(n, m_a, m_p), abs=1e-12)


@pytest.mark.parametrize("m_a", [4, 6, 9])
def test_lemma_1(m_a):
    for n in (2, 3, 64, 1000, 30_000):
        assert retention(n, m_a, partial_swamping=False) == pytest.approx(lemma_1(n, m_a), abs=1e-12)


@pytest.mark.parametrize("n", [300, 5_000, 50_000])
def test_relative_accuracy_of_the_loss(n):
    """The sum over i, which is not walked term by term, holds 12 digits, also far below a float64's 1e-16."""
    for m_a in (6, 8, 10):
        i = np.arange(2, n, dtype=np.float64)
        q = np.array([tail(2**m_a / math.sqrt(x)) * math.erf(2**m_a / math.sqrt(2 * (x - 1))) for x in i])
        exact = math.fsum((n - i) * q) / (math.fsum(q) + math.erf(2**m_a / math.sqrt(2 * n)))
        assert loss(n, m_a, partial_swamping=False) == pytest.approx(exact, rel=1e-12, abs=1e-40)


#: Known knees, found on a grid of lengths with nine significant bits.
KNEES = {
    5: 196,
    6: 534,
    7: 1_484,
    8: 3_912,
    9: 10_144,
    10: 26_560,
    11: 64_768,
    12: 163_840,
    13: 421_888,
    14: 960_512,
    15: 2_244_608,
}


@pytest.mark.parametrize(("mantissa_bits", "known"), KNEES.items())
def test_largest_length(mantissa_bits, known):
    knee = largest_length(mantissa_bits)
    dropped = max(0, knee.bit_length() - 9)
    assert knee >> dropped << dropped == known
    assert suitable(knee, mantissa_bits)
    assert not suitable(knee + 1, mantissa_bits)


@pytest.mark.parametrize(
    ("length", "widths"),
    [
        (3_211_264, (17, 15, 14)),
        (802_816, (14, 13, 13)),
        (200_704, (13, 12, 11)),
        (50_176, (11, 10, 10)),
        (12_544, (10, 9, 8)),
    ],
)
@pytest.mark.filterwarnings("ignore::quaver.golden.planning.variance_retention.NotMonotoneWarning")
def test_widths_of_resnet18_gradients(length, widths):
    assert tuple(minimum_mantissa_bits(length, nonzero_ratio=z) for z in (1, 0.5, 0.25)) == widths


def test_the_loss_grows_with_the_length():
    n = np.unique(np.geomspace(1, 4e6, 500).astype(int))
    for m_a in range(1, 19):
        assert np.all(np.diff(loss(n, m_a)) >= -1e-9 * loss(n, m_a)[1:]), m_a


def test_warns_past_three_product_mantissas():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert largest_length(15) == 2_245_379
        assert minimum_mantissa_bits(2_000_000) == 15
    with pytest.warns(NotMonotoneWarning, match=r"16 mantissa bits are more than 3·m_p = 15"):
        assert largest_length(16) < 2_245_379  # this is what is not monotone
    with pytest.warns(NotMonotoneWarning, match="fewer may do"):
        assert minimum_mantissa_bits([64, 3_211_264]).tolist() == [5, 17]


def test_nothing_overflows_or_cancels():
    with np.errstate(all="raise", under="ignore"):
        assert loss(10**12, 4) == pytest.approx(2 / 3 * 1e12, rel=1e-3)  # q_i falls as 1/√i there
        assert loss(1, 4) == 0
        assert loss(500, 12) == pytest.approx(3.0565e-28, rel=1e-4)
        assert loss(10**15, 30).item() > 0


def test_millions_in_milliseconds():
    n = np.arange(3_000_000, 3_000_200)
    loss(n, 12)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        loss(3_211_264, 12)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.01


def test_shapes():
    n = np.arange(1, 13).reshape(3, 4)
    values = loss(n, 5)
    assert values.shape == (3, 4)
    assert values[2, 1] == loss(10, 5)
    assert minimum_mantissa_bits(n).shape == (3, 4)
    assert isinstance(minimum_mantissa_bits(5), int)
    assert loss(np.array([], dtype=int), 5).size == 0


# Theory beside sums that are really rounded


@pytest.mark.parametrize("bits", [4, 5, 6])
def test_past_the_knee_the_theory_is_conservative_for_rounding_to_nearest(bits):
    """Below the knee both keep nearly all variance; far past it real sums keep more than predicted."""
    rng = np.random.default_rng(bits)
    knee = largest_length(bits)
    for n, low, high in ((knee // 4, -0.01, 0.02), (4 * knee, 0.15, 0.35)):
        ratios = []
        for _ in range(4):
            a, b = (FP8.encode(rng.standard_normal(shape)) for shape in ((64, n), (n, 64)))
            arithmetic = ChunkedFloat(accumulator=FloatFormat(6, bits), chunk=n)
            sums = arithmetic.result.decode(arithmetic.gemm(a, b)).astype(np.float64)
            exact = FP8.decode(a).astype(np.float64) @ FP8.decode(b).astype(np.float64)
            ratios.append(np.mean(sums**2) / np.mean(exact**2))
        assert low < np.mean(ratios) - retention(n, bits) < high, n


def test_truncation_is_worse_than_the_theory():
    """So the widths hold for rounding to nearest, not for adders that cut off."""
    rng = np.random.default_rng(1)
    products = rng.standard_normal((64, 4096))
    fmt, total = FloatFormat(6, 5), np.zeros(4096)
    for product in FloatFormat(6, 5).round(products):
        total = fmt.round(total + product, "truncate")
    assert np.mean(total.astype(np.float64) ** 2) / 64 < 0.7 < retention(64, 5)


# Chunks and zeros


def test_the_two_stages_of_a_chunked_sum():
    within, across = stage_losses(50_176, 7, 64)
    assert within == loss(64, 7)
    assert across == loss(784, 7, product_mantissa=7)  # 5 + log2(64) = 11 bits, but the accumulator holds 7
    _, across = stage_losses(50_176, 14, 64)
    assert across == loss(784, 14, product_mantissa=11)
    assert loss(50_176, 7, chunk=64) == max(stage_losses(50_176, 7, 64))


def test_both_readings_of_the_chunked_rule():
    within, across = stage_losses(50_176, 7, 64)
    product = (1 - within / 64) * (1 - across / 784)
    assert retention(50_176, 7, chunk=64) == pytest.approx(product)
    assert loss(50_176, 7, chunk=64, rule="whole") == pytest.approx(50_176 * (1 - product))
    widths = {rule: minimum_mantissa_bits(50_176, chunk=64, rule=rule) for rule in ChunkRule}
    assert minimum_mantissa_bits(50_176) == 11
    assert widths == {ChunkRule.WHOLE: 10, ChunkRule.EACH_STAGE: 7}


@pytest.mark.parametrize("rule", ChunkRule)
def test_a_chunk_that_holds_the_whole_sum_changes_nothing(rule):
    for chunk in (1_000, 4_096):
        assert loss(1_000, 6, chunk=chunk, rule=rule) == pytest.approx(loss(1_000, 6))


def test_zeros_shorten_the_sum_within_the_chunk():
    assert loss(1_000, 6, nonzero_ratio=0.25) == loss(250, 6)
    within, across = stage_losses(50_176, 14, 64, nonzero_ratio=0.25)
    assert within == loss(16, 14)
    assert across == loss(784, 14, product_mantissa=9)
    assert loss(100, 5, nonzero_ratio=0.07) == loss(7, 5)  # 100 · 0.07 is a little more than 7 in float64


def test_best_chunk():
    chunk, bits = best_chunk(50_176)
    every = {c: minimum_mantissa_bits(50_176, chunk=c) for c in (2**e for e in range(1, 17))}
    assert bits == min(every.values())
    ties = {c: loss(50_176, bits, chunk=c) for c in every if every[c] == bits}
    assert chunk == min(ties, key=ties.get)
    joint, joint_bits = best_chunk([576, 50_176])
    assert joint_bits == bits
    assert suitable([576, 50_176], bits, chunk=joint).all()


def test_no_width_below_the_product():
    assert minimum_mantissa_bits(2) == 5
    assert minimum_mantissa_bits(2, product_mantissa=7) == 7
    assert best_chunk(3)[1] == 5


def test_product_mantissa_bits():
    assert product_mantissa_bits(FP8) == 5
    assert product_mantissa_bits(FP16) == 19


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss(0, 5), "length is 0, but a sum has a whole number of terms, at least 1"),
        (lambda: loss([4, -3], 5), "length is -3, but a sum"),
        (lambda: loss([5, 1 << 54], 5), f"length is {1 << 54}, but a sum .*, at least 1 and at most 2..53"),
        (lambda: loss(10**23, 5), f"length is {10**23}, but a sum"),
        (lambda: loss(2.5, 5), "length is 2.5, but a sum"),
        (lambda: loss(9, 0), "mantissa_bits is 0, but it must be a whole number, at least 1"),
        (lambda: loss(9, 5, chunk=0), "chunk is 0, but it must be"),
        (lambda: loss(9, 5, product_mantissa=-1), "product_mantissa is -1, but it must be"),
        (lambda: minimum_mantissa_bits(9, nonzero_ratio=0.0), "nonzero_ratio is 0.0, but it is a share"),
        (lambda: minimum_mantissa_bits(9, nonzero_ratio=1.01), "nonzero_ratio is 1.01, but"),
        (lambda: best_chunk(0), "length is 0"),
        (lambda: largest_length(0), "mantissa_bits is 0"),
        (lambda: loss(9, 5, chunk=3, rule="product"), "product"),
        (lambda: largest_length(40), "no sum is too long for it"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        call()


def test_doctest():
    import doctest

    from quaver.golden.planning import variance_retention

    assert doctest.testmod(variance_retention) == (0, 2)


def test_the_threshold():
    assert math.exp(LARGEST_LOSS) == pytest.approx(50)
