"""What bit streams do to a matrix product, at the speed of matrix products: noise drawn from a normal law.

`quaver.golden.arithmetic.bitstream` counts every bit. Here the share of ones in a stream is a normal number.
The stream of an operand a has an error ε(a) of variance v(a)/L, v(a) = |a|·(1 − |a|) unipolar and 1 − a²
bipolar, and with it

    count / L = a·b + ε(a)·b + a·ε(b) + rest,    the rest's variance v(a)·v(b)/L

whose three terms are uncorrelated and whose variances add up to p·(1 − p)/L, or (1 − x²)/L, exactly. ε(a) is
drawn once for all outputs of a row and ε(b) once for those of a column, as their bits are the same bits; the
rest is each output's own. So means, variances and covariances of all outputs are those of the streams. It
takes products of two and of one times the operands' length K.

A count is whole. The first two terms' sum is rounded to one stochastically, so that sums of less than a count
keep their mean, and the rest's variance is less by what that adds. Where it has less to give, a variance is
too large by a quarter of a step² at most; at the ends, which no count passes, the mean is off too.

Of the multiplexer's one output, L·(1 − count/(K·L))/2 is binomial, of L trials and probability (1 − m)/2, m
the mean product. That law is drawn from, but for each output anew: what a row, a column and the selector
share is left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.arithmetic.bitstream import Bitstream, Circuit, Generator, Sharing
from quaver.golden.contracts import Arithmetic, Codes
from quaver.golden.engine import GoldenEngine
from quaver.golden.float_environment import standard_floats


def variance(arithmetic: Bitstream, a_codes: ArrayLike, b_codes: ArrayLike) -> NDArray[np.float64]:
    """The variance of each result, float64 (M, N): `quaver.golden.arithmetic.bitstream` has the formulas.

    Errors are those of `Bitstream.gemm`, and a ValueError: the generators are not independent LFSRs, of which
    alone the theory is.
    """
    _check_theory(arithmetic)
    a, b = arithmetic.check(a_codes, b_codes, seed=1)  # any: nothing is drawn
    x, y = arithmetic.a.decode(a).astype(np.float64), arithmetic.b.decode(b).astype(np.float64)
    K, squares = x.shape[1], x**2 @ y**2
    if arithmetic.circuit is Circuit.AND:
        return (np.abs(x) @ np.abs(y) - squares) / arithmetic.length
    if arithmetic.circuit is Circuit.XNOR:
        return (K - squares) / arithmetic.length
    return (K**2 - (x @ y) ** 2) / arithmetic.length


@standard_floats
def sample(
    arithmetic: Bitstream, a_codes: ArrayLike, b_codes: ArrayLike, *, seed: int | None = None
) -> Codes:
    """Results (M, N) as `arithmetic.gemm` might have given them: alike in law, and not its bits.

    Parameters and errors are those of `Bitstream.gemm`. Sums of few products are not normal: their means and
    variances are right, their tails are not.

    ValueError: the generators are not independent LFSRs, of which alone the theory is.
    """
    from quaver.golden.kernels.float32 import matmul  # compiles: not before something is computed

    _check_theory(arithmetic)
    a, b = arithmetic.check(a_codes, b_codes, seed=seed)
    x, y = arithmetic.a.decode(a), arithmetic.b.decode(b)
    rng, length, K = np.random.default_rng(seed), arithmetic.length, x.shape[1]
    if arithmetic.circuit is Circuit.MUX:
        opposite = np.clip((1 - matmul(x, y).astype(np.float64) / max(K, 1)) / 2, 0, 1)
        return arithmetic.result.codes(K * (length - 2 * rng.binomial(length, opposite)))
    u, v = (1 - z * z if arithmetic.bipolar else np.abs(z) * (1 - np.abs(z)) for z in (x, y))
    of_a, of_b = (np.sqrt(w / length) * rng.standard_normal(w.shape, np.float32) for w in (u, v))
    sums = length * matmul(np.hstack([x + of_a, x]), np.vstack([y, of_b]))
    step = 2 if arithmetic.bipolar else 1  # from one count to the next, in which everything below is
    steps = np.floor(sums / step + rng.random(sums.shape))
    off = sums / step - np.floor(sums / step)  # whose rounding has added off·(1 − off)
    rest = np.maximum(length * matmul(u, v) / step**2 - off * (1 - off), 0)
    normal, ends = rng.standard_normal(sums.shape, np.float32), K * length // step
    wide = np.rint(np.sqrt(np.maximum(rest - 1 / 12, 0)) * normal)
    narrow = np.sign(normal) * (rng.random(sums.shape) < rest)
    counts = np.clip(steps + np.where(rest < 1, narrow, wide), -ends, ends)
    return arithmetic.result.codes(step * counts)


def _check_theory(arithmetic: Bitstream) -> None:
    if arithmetic.generator is not Generator.LFSR or arithmetic.sharing is not Sharing.EDGES:
        raise ValueError(
            f"generator is {arithmetic.generator} and sharing is {arithmetic.sharing}, but the noise theory "
            f"is of lfsr and edges; count the bits by gemm"
        )


class NoiseEngine(GoldenEngine):
    """The golden engine, but with the noise of bit streams drawn and not counted, for training at scale.

    Not bit for bit what an accelerator gives, but alike in law; arithmetics without streams are as ever.
    """

    def gemm(
        self, arithmetic: Arithmetic, a_codes: Codes, b_codes: Codes, *, seed: int | None = None
    ) -> Codes:
        """C = A·B by `sample` if `arithmetic` is a `Bitstream`, else as the golden engine."""
        if isinstance(arithmetic, Bitstream):
            return sample(arithmetic, a_codes, b_codes, seed=seed)
        return super().gemm(arithmetic, a_codes, b_codes, seed=seed)
