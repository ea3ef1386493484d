"""The weight update in fixed point: SGD with momentum, each line exact inside and rounded once.

After Gupta et al. 2015 (arXiv 1502.02551, §4): weights and weight updates each have their ⟨IL, FL⟩. Whether
updates far smaller than a step of the weights survive is what stochastic rounding decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from golden.formats import FixedFormat
from golden.lfsr import LFSR
from golden.rounding import RANDOM_BITS, Rounding, round_integer
from golden.update import SEED_MASKS

#: Format of the scalars: as wide as fixed point gets, up to 2.
SCALAR = FixedFormat(2, 22)

_Q4_12 = FixedFormat(4, 12)


@dataclass(frozen=True)
class FixedUpdate:
    """One step of SGD with momentum on fixed-point codes.

    For each element, in memory order, with every line exact inside, rounded once, and saturating::

        v ← round(momentum · v + rate · g + rate·decay · w)      in `updates`
        w ← round(w − v)                                         in `weights`

    Parameters
    ----------
    rate, momentum, decay
        The learning rate η, μ and λ. μ, η and the product ηλ are rounded to nearest into `SCALAR`.
    weights, updates, gradients
        Formats of w, of v (the weight update, η included), and of g.
    rounding
        Of both lines: stochastic, nearest or truncate.
    random_bits
        R, 1 … 32. A line that drops bits and rounds stochastically takes one draw an element from its own
        LFSR: ``LFSR(seed ^ SEED_MASKS[name])``, or the mask itself where that is zero; the first line's name
        is "momentum", the second's "rate".

    Raises
    ------
    ValueError
        A scalar beyond `SCALAR`, or formats so far apart that a line is not a 63-bit integer.
    """

    rate: float
    momentum: float = 0.9
    decay: float = 0.0
    weights: FixedFormat = _Q4_12
    updates: FixedFormat = _Q4_12
    gradients: FixedFormat = _Q4_12
    rounding: Rounding = Rounding.STOCHASTIC
    random_bits: int = RANDOM_BITS

    def __post_init__(self) -> None:
        object.__setattr__(self, "rounding", Rounding(self.rounding))
        for name in ("rate", "momentum", "decay"):
            if not 0 <= getattr(self, name) <= SCALAR.max_value:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be in 0 … {SCALAR.max_value}")
        if not 1 <= self.random_bits <= 32:
            raise ValueError(f"random_bits is {self.random_bits}, but a draw takes 1 … 32")
        formats = self.weights, self.updates, self.gradients
        if max(f.integer_bits for f in formats) + self._fraction_bits + 3 > 63:
            raise ValueError(
                f"weights {self.weights}, updates {self.updates} and gradients {self.gradients} are too far "
                f"apart to be added up in 63 bits; take narrower ones"
            )

    @property
    def _fraction_bits(self) -> int:
        """Of the first line's exact sum."""
        return (
            max(f.fraction_bits for f in (self.weights, self.updates, self.gradients)) + SCALAR.fraction_bits
        )

    def update(
        self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike, *, seed: int | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The new weights and momenta: codes in the shape that all three arrays of codes share.

        `seed`, 1 … 2**32 − 1, belongs to stochastic rounding, left out otherwise; each call has its own.
        """
        terms, w = self._terms(weights, momenta, gradients, seed)
        v = self._rounded("momentum", np.sum(terms, axis=0), self._fraction_bits, self.updates, seed)
        bits = max(self.weights.fraction_bits, self.updates.fraction_bits)
        difference = (w << (bits - self.weights.fraction_bits)) - (
            self.updates.integers(v).astype(np.int64) << (bits - self.updates.fraction_bits)
        )
        return self._rounded("rate", difference, bits, self.weights, seed), v

    def definition(
        self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike, *, seed: int | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """`update` in Python's integers, an element at a time."""
        terms, w = self._terms(weights, momenta, gradients, seed)
        sources = {
            name: LFSR(seed ^ SEED_MASKS[name] or SEED_MASKS[name]) for name in ("momentum", "rate") if seed
        }

        def rounded(name: str, value: int, bits: int, fmt: FixedFormat) -> int:
            random, dropped = 0, bits - fmt.fraction_bits
            if dropped > 0 and self.rounding is Rounding.STOCHASTIC:
                random = sources[name].draw(self.random_bits)
            result = round_integer(value, dropped, self.rounding, random, self.random_bits)
            return min(max(result, ~fmt.max_code), fmt.max_code)

        bits = max(self.weights.fraction_bits, self.updates.fraction_bits)
        new_w, new_v = np.empty(w.shape, np.int64), np.empty(w.shape, np.int64)
        for i in np.ndindex(*w.shape):
            v = rounded("momentum", sum(int(t[i]) for t in terms), self._fraction_bits, self.updates)
            difference = (int(w[i]) << (bits - self.weights.fraction_bits)) - (
                v << (bits - self.updates.fraction_bits)
            )
            new_v[i], new_w[i] = v, rounded("rate", difference, bits, self.weights)
        return self.weights.codes(new_w), self.updates.codes(new_v)

    def _terms(
        self, weights: ArrayLike, momenta: ArrayLike, gradients: ArrayLike, seed: int | None
    ) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """The first line's three terms in steps of 2**−_fraction_bits, and w; all checked."""
        if self.rounding is not Rounding.STOCHASTIC and seed is not None:
            raise ValueError(f"seed is {seed}, but {self.rounding} rounding draws nothing; leave it out")
        if self.rounding is Rounding.STOCHASTIC and (seed is None or not 0 < seed < 1 << 32):
            raise ValueError(f"seed is {seed}, but stochastic rounding needs one in 1 … 2**32 − 1")
        terms: list[NDArray[np.int64]] = []
        w = np.empty(0, np.int64)
        for name, codes, fmt, scalar in (
            ("momenta", momenta, self.updates, self.momentum),
            ("gradients", gradients, self.gradients, self.rate),
            ("weights", weights, self.weights, self.rate * self.decay),
        ):
            w = fmt.integers(fmt.check_codes(codes, name)).astype(np.int64)
            if terms and w.shape != terms[0].shape:
                raise ValueError(f"{name} have shape {w.shape}, but momenta have {terms[0].shape}")
            shift = self._fraction_bits - SCALAR.fraction_bits - fmt.fraction_bits
            terms.append(int(SCALAR.integers(SCALAR.encode(scalar))) * w << shift)
        return terms, w

    def _rounded(
        self, name: str, values: NDArray[np.int64], bits: int, fmt: FixedFormat, seed: int | None
    ) -> NDArray[Any]:
        dropped = bits - fmt.fraction_bits
        if dropped <= 0:
            return fmt.codes(values << -dropped)
        if self.rounding is Rounding.NEAREST_EVEN:
            values = values + ((1 << (dropped - 1)) - 1 + ((values >> dropped) & 1))
        elif self.rounding is Rounding.TOWARD_ZERO:
            values = values + np.where(values < 0, (1 << dropped) - 1, 0)
        elif seed is not None:
            source = LFSR(seed ^ SEED_MASKS[name] or SEED_MASKS[name])
            random = source.draws(values.size, self.random_bits).astype(np.int64).reshape(values.shape)
            shift = dropped - self.random_bits
            values = values + (random << shift if shift >= 0 else random >> -shift)
        return fmt.codes(values >> dropped)
