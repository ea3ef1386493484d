"""How wide an accumulator must be: the variance retention ratio.

After Sakr et al., "Accumulation Bit-Width Scaling for Ultra-Low Precision Training of Deep Networks", ICLR
2019 (arXiv 1901.06588). A floating-point sum loses a small addend next to a large partial sum: it is
*swamped*, in part (its low bits fall off) or in full. The **variance retention ratio** VRR is the variance
of the sum with swamping over that of the ideal sum, for independent zero-mean products. A mantissa is wide
enough for length n when v(n) = exp(n·(1 − VRR)) < 50.

This module never forms VRR or v: it computes the **loss** ln v(n) = n·(1 − VRR) itself, a quotient of sums of
positive terms, so nothing cancels where VRR is 1 to the last bit and nothing overflows where it is near 0.

How tight that is for rounding to nearest, `bench/variance_retention.py` shows: far past the knee real sums
keep much more variance than predicted; before it, from 7 bits up, they lose a little more (1 − VRR is then
under a percent, but v(n) < 50 asks for n·(1 − VRR) < 3.9). Sums that truncate lose far more.

    >>> minimum_mantissa_bits(64 * 28 * 28)
    11
    >>> minimum_mantissa_bits(64 * 28 * 28, chunk=64)
    7
"""

from __future__ import annotations

import warnings
from math import ceil, floor, log, log2
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden.float_environment import standard_floats
from quaver.golden.validation import Choice

if TYPE_CHECKING:
    from quaver.golden.formats import FloatFormat

#: A width is suitable while its loss ln v(n) stays below this: v(n) < 50.
LARGEST_LOSS = log(50)
#: The search for a width stops here; a float64 has 52 mantissa bits.
WIDEST_MANTISSA = 52
#: Terms of the longest sum: a float64 counts no further.
LONGEST = 1 << 53

Floats = NDArray[np.float64]


class NotMonotoneWarning(UserWarning):
    """The formula's answer lies where one more mantissa bit may predict a *shorter* suitable length.

    Partial swamping alone takes ln v no higher than α₂ = 2^(m_a − 3·m_p + 1). That passes ln 50 once
    m_a > 3·m_p (m_a = 16 for FP8 products), so from there on the rule refuses partial swamping that it let
    narrower widths get away with. For FP8 products this concerns sums of more than about two million terms.
    """


class ChunkRule(Choice):
    """What v(n) < 50 means for a sum in chunks; the paper can be read either way."""

    EACH_STAGE = "each-stage"
    """Reading B, the default: the sum within a chunk and the sum of the chunks each pass on their own length.
    It saves several bits over a sum without chunks."""
    WHOLE = "whole"
    """Reading A: n is the whole length and VRR the product of the two stages'. It saves about one bit."""


def product_mantissa_bits(operand: FloatFormat) -> int:
    """Mantissa bits m_p of the exact product of two numbers of a format: 5 for FP8."""
    return 2 * operand.mantissa_bits + 1


@standard_floats
def loss(
    length: ArrayLike,
    mantissa_bits: int,
    *,
    chunk: int | None = None,
    product_mantissa: int = 5,
    nonzero_ratio: float = 1.0,
    rule: ChunkRule | str = ChunkRule.EACH_STAGE,
    partial_swamping: bool = True,
) -> Floats:
    """ln v(n) = n·(1 − VRR) of a sum; the width is suitable while it is below `LARGEST_LOSS`.

    Parameters
    ----------
    length
        Terms n of the sum, any shape of integers; the result has the same shape.
    mantissa_bits
        The accumulator's mantissa bits m_a, the hidden one not counted.
    chunk
        Sum in chunks of this many terms, then sum the chunks; None for one plain sum.
    product_mantissa
        Mantissa bits m_p of the products; `product_mantissa_bits(format)` gives them.
    nonzero_ratio
        The share NZR of products that are not zero; adding zero loses nothing, so n becomes NZR·n.
    rule
        Which reading of the chunked rule: see `ChunkRule`. EACH_STAGE gives the worse of `stage_losses`.
    partial_swamping
        False for full swamping alone (Lemma 1 instead of Theorem 1).

    Raises
    ------
    ValueError
        A length, width or chunk below 1, or a nonzero_ratio outside (0, 1].
    """
    rule = ChunkRule(rule)
    n = _check(
        length, nonzero_ratio, mantissa_bits=mantissa_bits, chunk=chunk, product_mantissa=product_mantissa
    )
    effective = _nonzero(n, nonzero_ratio)
    if chunk is None:
        return _plain_loss(effective, mantissa_bits, product_mantissa, partial_swamping)
    within, across = stage_losses(
        n,
        mantissa_bits,
        chunk,
        product_mantissa=product_mantissa,
        nonzero_ratio=nonzero_ratio,
        partial_swamping=partial_swamping,
    )
    if rule is ChunkRule.EACH_STAGE:
        return np.maximum(within, across)
    lost = within / _nonzero(np.minimum(n, chunk), nonzero_ratio)
    lost_across = across / -(-n // chunk)
    return effective * (lost + lost_across - lost * lost_across)


@standard_floats
def stage_losses(
    length: ArrayLike,
    mantissa_bits: int,
    chunk: int,
    *,
    product_mantissa: int = 5,
    nonzero_ratio: float = 1.0,
    partial_swamping: bool = True,
) -> tuple[Floats, Floats]:
    """ln v of the sum within a chunk, and of the sum of the chunk sums, each on its own length.

    The first stage adds NZR·chunk terms of m_p bits, the second ⌈length/chunk⌉ terms that have grown to
    min(m_a, m_p + log2(NZR·chunk)) bits, rounded up. Parameters as `loss`.
    """
    n = _check(
        length, nonzero_ratio, mantissa_bits=mantissa_bits, chunk=chunk, product_mantissa=product_mantissa
    )
    grown = product_mantissa + ceil(log2(_nonzero(np.int64(chunk), nonzero_ratio)))
    within = _nonzero(np.minimum(n, chunk), nonzero_ratio)
    return (
        _plain_loss(within, mantissa_bits, product_mantissa, partial_swamping),
        _plain_loss(-(-n // chunk), mantissa_bits, min(mantissa_bits, grown), partial_swamping),
    )


def retention(length: ArrayLike, mantissa_bits: int, **options: Any) -> Floats:
    """The ratio VRR itself, in chunks the product of the two stages'. Parameters as `loss`.

    Where VRR is near 1, `loss` says more.
    """
    nonzero_ratio = options.get("nonzero_ratio", 1.0)
    effective = _nonzero(_check(length, nonzero_ratio), nonzero_ratio)
    return 1 - loss(length, mantissa_bits, **{**options, "rule": ChunkRule.WHOLE}) / effective


def suitable(length: ArrayLike, mantissa_bits: int, **options: Any) -> NDArray[np.bool_]:
    """Whether v(n) < 50. Parameters as `loss`."""
    return loss(length, mantissa_bits, **options) < LARGEST_LOSS


@standard_floats
def minimum_mantissa_bits(length: ArrayLike, **options: Any) -> Any:
    """The fewest mantissa bits that are suitable: an int, or an array of the shape of `length`.

    Never fewer than m_p: an accumulator that does not hold a single product is outside the theory, in which
    swamping starts after the sum does. Parameters as `loss`.

    Warns
    -----
    NotMonotoneWarning
        The answer lies past 3·m_p.
    """
    n = _check(length, options.get("nonzero_ratio", 1.0))
    product_mantissa = options.get("product_mantissa", 5)
    answer = np.zeros(n.shape, dtype=np.int64)
    for bits in range(product_mantissa, WIDEST_MANTISSA + 1):
        open_ = answer == 0
        if not open_.any():
            break
        answer[open_] = np.where(suitable(n[open_], bits, **options), bits, 0)
    else:
        raise ValueError(f"length is {n.max()}: that takes more than {WIDEST_MANTISSA} bits; sum in chunks")
    _warn_if_not_monotone(int(answer.max(initial=0)), product_mantissa)
    return int(answer) if answer.ndim == 0 else answer


@standard_floats
def largest_length(mantissa_bits: int, **options: Any) -> int:
    """The largest n that is suitable for a width: the knee of v(n). Parameters as `loss`.

    Warns
    -----
    NotMonotoneWarning
        The width is past 3·m_p.
    """
    low, high = 1, 2
    while suitable(high, mantissa_bits, **options):
        low, high = high, 2 * high
        if high > LONGEST:
            raise ValueError(f"mantissa_bits is {mantissa_bits}: no sum is too long for it")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if suitable(middle, mantissa_bits, **options) else (low, middle)
    _warn_if_not_monotone(mantissa_bits, options.get("product_mantissa", 5))
    return low


@standard_floats
def best_chunk(
    lengths: ArrayLike, *, nonzero_ratio: ArrayLike = 1.0, product_mantissa: int = 5, **options: Any
) -> tuple[int, int]:
    """The power-of-two chunk with which the narrowest accumulator serves all `lengths`, and its width.

    Among the chunks that need no wider accumulator, the one with the smallest loss: the optimum is flat, and
    its middle is where a prediction may err to either side. Parameters as `loss`, but `nonzero_ratio` may
    hold one for each length; m_p bits at least, as in `minimum_mantissa_bits`.
    """
    n, ratios = (a.reshape(-1) for a in np.broadcast_arrays(np.asarray(lengths), nonzero_ratio))
    by_ratio = {float(ratio): _check(n[ratios == ratio], float(ratio)) for ratio in np.unique(ratios)}
    chunks = [1 << e for e in range(1, max(2, int(n.max()).bit_length() + 1))]
    options["product_mantissa"] = product_mantissa
    for bits in range(product_mantissa, WIDEST_MANTISSA + 1):
        losses = {
            chunk: max(
                float(loss(group, bits, chunk=chunk, nonzero_ratio=ratio, **options).max())
                for ratio, group in by_ratio.items()
            )
            for chunk in chunks
        }
        chunk = min(chunks, key=losses.__getitem__)
        if losses[chunk] < LARGEST_LOSS:
            return chunk, bits
    raise ValueError(f"lengths reach {n.max()}: that takes more than {WIDEST_MANTISSA} bits in any chunks")


def _warn_if_not_monotone(mantissa_bits: int, product_mantissa: int) -> None:
    if mantissa_bits > 3 * product_mantissa:
        warnings.warn(
            f"{mantissa_bits} mantissa bits are more than 3·m_p = {3 * product_mantissa}: there the variance "
            "formula is not monotone in the width, and fewer may do; sum in chunks, or test by training",
            NotMonotoneWarning,
            stacklevel=3,
        )


def _check(length: ArrayLike, nonzero_ratio: float, **at_least_one: int | None) -> NDArray[np.int64]:
    n = np.asarray(length)
    if n.dtype.kind not in "ui" or (n.size and not 1 <= n.min() <= n.max() <= LONGEST):
        wrong = n if n.dtype.kind not in "ui" or n.ndim == 0 else n.min() if n.min() < 1 else n.max()
        raise ValueError(
            f"length is {wrong}, but a sum has a whole number of terms, at least 1 and at most 2**53"
        )
    for name, value in at_least_one.items():
        if value is not None and (value != int(value) or value < 1):
            raise ValueError(f"{name} is {value}, but it must be a whole number, at least 1")
    if not 0 < nonzero_ratio <= 1:
        raise ValueError(
            f"nonzero_ratio is {nonzero_ratio}, but it is a share of products: above 0, at most 1"
        )
    return n.astype(np.int64)


def _nonzero(n: Any, ratio: float) -> Any:
    """NZR·n, rounded up to a whole number of terms (but not by the float64's last bits)."""
    return np.ceil(n * (ratio * (1 - 1e-12))).astype(np.int64)


def _plain_loss(
    n: NDArray[np.int64], mantissa_bits: int, product_mantissa: int, partial_swamping: bool
) -> Floats:
    """n·(1 − VRR) of a plain sum of n terms: Theorem 1, or Lemma 1 without partial swamping.

    n·(1 − VRR) is a weighted mean of what is lost: n − i + α by full swamping from step i on (weight q_i),
    α_j by partial swamping of j − 1 bits (weight q'_j), nothing without swamping (weight k3).
    """
    from scipy.special import erf, erfc  # a tenth of a second: not for commands that plan nothing

    if n.size == 0:
        return np.zeros(n.shape)
    shape, n = n.shape, n.reshape(-1)
    root = np.sqrt(2.0 * n)
    if not partial_swamping:
        weight, lost = _full_swamping(n, mantissa_bits, alpha=0.0)
        weight += erf(2.0**mantissa_bits / root)
    else:
        t = np.arange(1.0, product_mantissa + 1)
        terms = 2**t * (2**t - 1) * (2 ** (t + 1) - 1)
        alphas = 2.0 ** (mantissa_bits - 3 * product_mantissa) / 3 * np.cumsum(terms)  # α_2 … α_{m_p + 1}
        weight, lost = _full_swamping(n, mantissa_bits, alpha=float(alphas[-1]))
        for j, alpha in enumerate(alphas[:-1], start=2):
            steps = 2.0 ** (mantissa_bits - product_mantissa + j)
            q = np.where(n > alpha, steps * erfc(steps / 2 / root) * erf(steps / root), 0.0)
            weight, lost = weight + q, lost + alpha * q
        weight += erf(2.0 ** (mantissa_bits - product_mantissa + 1) / root)
    return np.where(n == 1, 0.0, lost / weight).reshape(shape)  # a single term is added to nothing


def _full_swamping(n: NDArray[np.int64], mantissa_bits: int, alpha: float) -> tuple[Floats, Floats]:
    """Σ q_i and Σ (n − i + α)·q_i over α < i < n, for each n.

    Full swamping that sets in at step i loses the n − i terms that follow, and the α lost in part before.
    """
    from scipy.special import erf, erfc

    threshold = 2.0**mantissa_bits / 2**0.5
    # Below the first edge erfc is under 1e-300. From there on q is smooth in log i: blocks grow with i.
    first = max(2.0, np.floor(alpha) + 1, np.floor(threshold**2 / 690))
    stop = np.maximum(n, first)
    growth = np.arange(floor(4 * log2(stop.max() / first)) + 1) / 4
    edges = np.unique(np.floor(first * 2**growth))
    block = np.searchsorted(edges, stop, side="right") - 1  # the block that each n cuts
    i, weight = _rule_for_sums(np.append(edges[:-1], edges[block]), np.append(edges[1:], stop))
    q = weight * erfc(threshold / np.sqrt(i)) * erf(threshold / np.sqrt(i - 1))

    def total(terms: Floats) -> Floats:
        whole, cut = np.split(terms.sum(axis=-1), [len(edges) - 1])
        return np.append(0.0, np.cumsum(whole))[block] + cut

    # q_i spreads over at least the last n/1400 steps before n, so this difference loses three digits at most.
    return total(q), (n + alpha) * total(q) - total(i * q)


def _rule_for_sums(start: Floats, stop: Floats, nodes: int = 8) -> tuple[Floats, Floats]:
    """Points and weights, each (len(start), nodes), that sum a smooth function over start ≤ i < stop.

    Gauss's rule for the discrete uniform measure: exact for polynomials of degree below 2·nodes, and for any
    function where there are at most `nodes` integers. Golub and Welsch's method on the recurrence of the Gram
    (discrete Chebyshev) polynomials, whose off-diagonal is zero from the number of integers on.
    """
    count = (stop - start)[:, np.newaxis]
    k = np.arange(1, nodes)
    jacobi = np.zeros((len(start), nodes, nodes))
    jacobi[:, k, k - 1] = np.sqrt(np.maximum(k**2 * (count**2 - k**2) / (4.0 * (4 * k**2 - 1)), 0))
    offsets, vectors = np.linalg.eigh(jacobi)  # reads the lower triangle
    return start[:, np.newaxis] + (count - 1) / 2 + offsets, count * vectors[:, 0, :] ** 2
