"""AdaComp: what a learner sends of a layer's gradient, and what it keeps for later.

After Chen et al. 2018 (arXiv 1712.02679). The method is patented in the United States (11,295,208 B2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite, ldexp, nan

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quaver.golden import exact
from quaver.golden.compression.packet import Packet, element_bytes
from quaver.golden.float_environment import standard_floats
from quaver.golden.formats import FP32
from quaver.golden.validation import Choice, set_integers

Values = NDArray[np.float32]


class NonFinite(Choice):
    """What becomes of a gradient with an infinity or a NaN, or with one that arises on the way."""

    REFUSE = "refuse"
    """An error."""
    PASS = "pass"
    """The packet says so: every learner's average of the layer is NaN, so that all of them skip the step, and
    the residue stays as it was."""


@dataclass(frozen=True)
class AdaComp:
    """The rule, for bins of one length.

    Of a layer's residue R and gradient dW, elements in memory order, every line rounded to nearest even in
    float32::

        G = R + dW,  H = G + dW
        send i where |H_i| ≥ the largest |G| of its bin > 0, and G_i ≠ 0
        scale = the mean of the bins' largest |G|
        the value sent is sign(G_i) · scale, the new residue G_i − value; elsewhere it is G_i

    The scale is the exact mean over all bins, those of zeros and a shorter last one included, rounded once.
    Ties: every element that reaches its bin's largest is sent, be it all of them. (An element of G = 0 would
    send sign(0) · scale = 0, which is as good as nothing.)

    Parameters
    ----------
    bin_length
        L_T, elements of a bin, 1 … 16,383: the paper has 50 for convolutions, 500 for the rest. The last bin
        of a layer may be shorter, and a layer may be shorter than a bin. Up to 63, an element that is sent
        takes 8 bits, above it takes 16.
    non_finite
        What becomes of a gradient that is not finite.

    Raises
    ------
    TypeError, ValueError
        The bin length is no integer, or out of range; or there is no such policy.
    """

    bin_length: int
    non_finite: NonFinite = NonFinite.REFUSE

    def __post_init__(self) -> None:
        set_integers(self, "bin_length")
        object.__setattr__(self, "non_finite", NonFinite(self.non_finite))
        element_bytes(self.bin_length)

    @standard_floats
    def compress(
        self, residue: ArrayLike, gradient: ArrayLike, *, layer: int = 0, learner: int = 0, step: int = 0
    ) -> tuple[Packet, Values]:
        """The packet, and the new residue, in the shape that both arrays of float32 share.

        ValueError: something is not finite, and the policy refuses it.
        """
        from quaver.golden.kernels import adacomp

        old, new, shape = *self.check(residue, gradient), np.shape(residue)
        size = element_bytes(self.bin_length)
        pending = np.empty_like(old)
        elements = np.empty(len(old) + 1, f"u{size}")
        sums = np.zeros(255, np.int64)
        arrays = pending, pending.view(np.int32), elements, sums
        count, _ = adacomp.compress(old, new, self.bin_length, 8 * size - 2, *arrays)
        where = {"layer": layer, "learner": learner, "step": step}
        if count == adacomp.NOT_FINITE:
            return self.not_finite(len(old), where), old.reshape(shape).copy()
        scale = mean_of_maxima(sums, -(-len(old) // self.bin_length))
        packet = Packet(len(old), self.bin_length, scale, elements[:count].copy(), **where)
        packet.scatter(-scale, pending)
        return packet, pending.reshape(shape)

    @standard_floats
    def definition(self, residue: ArrayLike, gradient: ArrayLike) -> tuple[float, Values, Values]:
        """`compress` in exact fractions, an element at a time: the scale, the values sent (0 elsewhere) and
        the new residue. NaN for the scale says that something was not finite."""
        old, new, shape = *self.check(residue, gradient), np.shape(residue)

        def rounded(x: Fraction) -> Fraction | None:
            """None: it is not finite."""
            value = exact.decode(FP32, exact.encode(FP32, x or 0.0))
            return Fraction(value) if isfinite(value) else None

        def added(x: Fraction | None, y: Fraction | None) -> Fraction | None:
            return None if x is None or y is None else rounded(x + y)

        r, d = ([Fraction(v) if isfinite(v) else None for v in x.tolist()] for x in (old, new))
        pending = list(map(added, r, d))
        if None in pending or None in map(added, pending, d):
            self.not_finite(len(old), {})
            return nan, np.zeros_like(old).reshape(shape), old.reshape(shape).copy()
        g = [x for x in pending if x is not None]
        h = [rounded(x + y) or Fraction(0) for x, y in zip(g, d, strict=True) if y is not None]
        bins = [range(len(g))[i : i + self.bin_length] for i in range(0, len(g), self.bin_length)]
        maxima = [max(abs(g[i]) for i in b) for b in bins]
        scale = rounded(sum(maxima, Fraction(0)) / len(bins)) or Fraction(0) if bins else Fraction(0)
        sent, kept = np.zeros_like(old), old + new
        for b, largest in zip(bins, maxima, strict=True):
            for i in b:
                if abs(h[i]) >= largest > 0 and g[i] != 0:
                    value = scale if g[i] > 0 else -scale
                    sent[i], kept[i] = value, rounded(g[i] - value)
        return float(scale), sent.reshape(shape), kept.reshape(shape)

    def check(self, residue: ArrayLike, gradient: ArrayLike) -> tuple[Values, Values]:
        """Both flat and contiguous. TypeError, ValueError: no float32 of one shape, or too long."""
        arrays = []
        for name, given in (("residue", residue), ("gradient", gradient)):
            array = np.asarray(given)
            if array.dtype != np.float32:
                raise TypeError(f"the {name} is {array.dtype}, but it must be float32")
            if array.shape != np.shape(residue):
                raise ValueError(f"the {name} is {array.shape}, but the residue is {np.shape(residue)}")
            if array.size >= 1 << 32:
                raise ValueError(f"the {name} has {array.size:,} elements, but a packet holds 2**32 − 1")
            arrays.append(np.ascontiguousarray(array).reshape(-1))
        return arrays[0], arrays[1]

    def not_finite(self, length: int, where: Mapping[str, int]) -> Packet:
        """The packet of a layer in which something was not finite; `where` has layer, learner and step.

        ValueError: the policy refuses it.
        """
        if self.non_finite is NonFinite.REFUSE:
            layer = f" of layer {where['layer']}" if where else ""
            raise ValueError(
                f"residue + gradient{layer} or residue + 2 · gradient is not finite; skip the step, or pass "
                f"it on with non_finite={NonFinite.PASS.value!r}"
            )
        none = np.empty(0, f"u{element_bytes(self.bin_length)}")
        return Packet(length, self.bin_length, np.nan, none, **where)


def mean_of_maxima(sums: NDArray[np.int64], bins: int) -> float:
    """The exact mean of `bins` magnitudes, rounded once to float32 (to nearest even).

    `sums[e]` is the sum of the significands, as integers of 24 bits, of those whose exponent field is e.
    """
    if not bins:
        return 0.0
    total = sum(int(s) << max(e - 1, 0) for e, s in enumerate(sums.tolist()) if s)  # in units of 2**-149
    excess = max((total // bins).bit_length() - FP32.precision, 0)
    quotient, rest = divmod(total, bins << excess)
    up = 2 * rest > bins << excess or (2 * rest == bins << excess and quotient & 1)
    return ldexp(quotient + up, excess + FP32.quantum_exponent)
