"""Whether an aligned and truncating accumulator is wide enough: measured with the golden kernel.

What such an accumulator loses is biased, and has a theory of its own (`predicted_variance`). Let u be
2**(e − F), the step that terms are cut to while the sum S has the exponent e. A product p loses u/2 of its
magnitude on average, as soon as it has bits below u: the variance that it brings is less by E|p|·u. And each
group cuts S itself, by half a step of the accumulator's, but for the bits that alignment has already taken:
with as many fraction bits as mantissa bits, as FP8's 13 and 13 on Hopper, by nothing. Both make a sum that
should grow at random for ever grow more slowly, and end; rounding to nearest, which is what
`quaver.golden.planning.variance_retention` is about, has no such end.

The variance kept is measured: sums of products of normal operands, theirs and the exact ones, in pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from quaver.golden.arithmetic.aligned_float import AlignedFloat
from quaver.golden.arithmetic.chunked_float import NO_CHUNKS
from quaver.golden.planning.networks import NetworkShape
from quaver.golden.planning.plan import ROLES
from quaver.golden.planning.variance_retention import LARGEST_LOSS

#: Sums that are measured at once, and the most products in one: what is longer is taken as so long.
ROWS, COLUMNS, LONGEST = 16, 64, 1 << 22

#: The mean of 1 over a significand that is log-uniform in [1, 2), of |x| for a normal x of variance 1, and of
#: the product of two such.
MEAN_INVERSE, MEAN_NORMAL, MEAN_PRODUCT = 1 / (2 * np.log(2)), np.sqrt(2 / np.pi), 2 / np.pi


@dataclass(frozen=True)
class Kept:
    """What a sum of so many products keeps.

    Attributes
    ----------
    length
        Products in the sum.
    variance
        The sums' variance over the exact ones'.
    error
        Root mean square error over the exact sums' root mean square.
    loss
        ln v(n) = n · (1 − `variance`) of one stage, the chunk: what `variance_retention.LARGEST_LOSS` limits.
        Totals to nearest in float32 lose nothing that counts beside it.
    """

    length: int
    variance: float
    error: float
    loss: float

    @property
    def suffices(self) -> bool:
        """Whether v(n) < 50 in the chunk, which is what a plan asks of each stage of a sum."""
        return self.loss < LARGEST_LOSS


@dataclass(frozen=True)
class GemmCheck:
    """One GEMM of one layer on an aligned accumulator.

    Attributes
    ----------
    layer, role
        Whose and which.
    promoted, plain
        In the arithmetic's chunks, and without.
    nonzero_ratio
        The share of products that is not zero.
    """

    layer: str
    role: str
    promoted: Kept
    plain: Kept
    nonzero_ratio: float = 1.0


def predicted_variance(arithmetic: AlignedFloat, length: int) -> float:
    """The theory's variance, over the exact one's, of a sum of so many products without chunks.

    dV/dn = 1 − E|p|·u(V) − 2·δ·V/group, in units of a product's variance, for as long as terms are larger
    than what is cut; the products' own last bits are neglected, so that it loses more than what is measured.
    """
    mantissa, fraction = arithmetic.accumulator.mantissa_bits, arithmetic.fraction_bits
    step = MEAN_INVERSE * MEAN_NORMAL * 2.0**-fraction  # u over the root of the variance
    cut = MEAN_INVERSE / 2 * 2.0**-mantissa * (1 - 2.0 ** (mantissa - fraction))  # δ
    variance, n = 0.0, 0.0
    points = np.linspace(0, length, 4097)
    for point in points[1:]:
        gain = max(1 - MEAN_PRODUCT * step * np.sqrt(variance), 0) - 2 * cut * variance / arithmetic.group
        variance, n = variance + gain * (point - n), point
    return float(variance / length)


@cache
def measured(arithmetic: AlignedFloat, length: int, nonzero_ratio: float = 1.0) -> Kept:
    """What sums of `length` products keep; the longest measured are of `LONGEST`.

    Raises
    ------
    ValueError
        A length below 1, or a ratio outside (0, 1].
    """
    if length < 1 or not 0 < nonzero_ratio <= 1:
        raise ValueError(f"{length} products, {nonzero_ratio} of them not zero; there is at least one")

    def pair(n: int) -> tuple[float, float]:
        """The variance kept, and the relative error, of sums of n."""
        random = np.random.default_rng(n)
        values = random.standard_normal((ROWS, n), np.float32)
        values[random.random((ROWS, n), np.float32) >= nonzero_ratio] = 0
        a = arithmetic.a.encode(values)
        b = arithmetic.b.encode(random.standard_normal((n, COLUMNS), np.float32))
        exact = arithmetic.a.decode(a).astype(np.float64) @ arithmetic.b.decode(b).astype(np.float64)
        error = arithmetic.result.decode(arithmetic.gemm(a, b)).astype(np.float64) - exact
        power = np.mean(exact**2) or 1.0
        # Of the pairs, not of the two variances: their difference is that of two large numbers.
        kept = 1 + (2 * np.mean(error * exact) + np.mean(error**2)) / power
        return float(kept), float(np.sqrt(np.mean(error**2) / power))

    n = min(length, LONGEST)
    stage = min(n, arithmetic.chunk)
    kept, error = pair(n)
    within = kept if stage == n else pair(stage)[0]
    return Kept(length, kept, error, max(stage * (1 - within), 0.0))


def check(
    network: NetworkShape,
    arithmetic: AlignedFloat,
    nonzero_ratios: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> list[GemmCheck]:
    """Every GEMM of `network` on `arithmetic`, in the network's order, with its chunks and without.

    `nonzero_ratios` are of layers that do not state their own.
    """
    plain = replace(arithmetic, chunk=NO_CHUNKS)
    found = []
    for number, shape in enumerate(network.layers):
        lengths = (shape.forward, shape.backward, shape.gradient(network.batch))
        for role, length, own, given in zip(
            ROLES, lengths, shape.nonzero_ratios, nonzero_ratios, strict=True
        ):
            if role == "backward" and not (number or network.learns_before):
                continue
            ratio = given if own is None else own
            promoted, without = (measured(one, length, ratio) for one in (arithmetic, plain))
            found.append(GemmCheck(shape.name, role, promoted, without, ratio))
    return found
